#!/bin/sh
# Builds the Collector that builder.yaml describes, once for each content of that file, and prints where it is.
# Needs Go alone. A binary that you have already: OTELCOL=/path/to/otelcol-contrib.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
manifest=$here/builder.yaml

if [ -n "${OTELCOL:-}" ]; then
    [ -x "$OTELCOL" ] || { echo "error: OTELCOL names $OTELCOL, which is no program" >&2; exit 1; }
    echo "==> Using $OTELCOL, as OTELCOL says" >&2
    echo "$OTELCOL"
    exit
fi

# tests/collector/binaries.py looks in the same place.
sum=$(if command -v sha256sum > /dev/null; then sha256sum; else shasum -a 256; fi < "$manifest" | cut -c 1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/otel-audit-bridge
binary=$cache/otelcol-$sum
if [ -x "$binary" ]; then
    echo "==> The Collector is built already" >&2
    echo "$binary"
    exit
fi

# GO, if it is set; else the one in PATH, or where Go's own packages put it.
go=
for each in ${GO:-go /usr/local/go/bin/go /usr/lib/go/bin/go}; do
    # command -v alone believes whatever has a slash.
    found=$(command -v "$each" || true)
    [ -n "$go" ] || [ ! -f "$found" ] || [ ! -x "$found" ] || go=$found
done
[ -n "$go" ] || {
    echo "error: Go is missing${GO:+ ($GO)}. Install it from https://go.dev/dl/ (or: make collector GO=/path/to/go)," >&2
    echo "or name a Collector that you have: OTELCOL=/path/to/otelcol-contrib" >&2
    exit 1
}
# The builder calls "go" itself. Without cgo no C compiler is needed.
PATH=$(dirname "$go"):$PATH
export PATH CGO_ENABLED=0

mkdir -p "$cache"
made=$(mktemp -d "$cache/building.XXXXXX")
trap 'rm -rf "$made"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

version=$(sed -n 's/^  version: *//p' "$manifest")
echo "==> Building the OpenTelemetry Collector $version with ocb and $(go version)" >&2
echo "    (once; three to ten minutes, most of them silent after \"Compiling\")" >&2
# The builder has no option for where to put things.
awk -v path="$made" '{ print } /^dist:/ { print "  output_path: \"" path "\"" }' "$manifest" > "$made/builder.yaml"
go run "go.opentelemetry.io/collector/cmd/builder@v$version" --config "$made/builder.yaml" >&2

# Last, and in one step: what is found there is whole.
mv "$made/otelcol-audit" "$binary"
echo "==> Built" >&2
echo "$binary"
