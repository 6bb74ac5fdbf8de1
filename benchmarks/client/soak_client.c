/* The clients of the soak: N version 2 connections in one process with one thread, each checked against its own filter.
 *
 * Records carry their number, "~n=<number>~", from 1. A client is told by what rule its filter lets numbers through, so
 * it knows which must come, in what order, and how many of each kind any range of them has. It keeps its place, as the
 * wire protocol says, from everything that has a cursor; when it comes back it asks for what is after that. At the end
 * every number is looked at again: it has come, or a gap has told that it will not, or it is missing.
 *
 *   --port N --shared FILE --clients FILE --records N --audit-every K   required; every Kth record is an audit record
 *   --stay S             seconds that a client of kind l stays (default 1)
 *   --seconds S          end after S seconds, whatever happened (default 600)
 *
 * The file of clients has one a line:
 *
 *   KIND STREAMS PATH RULE SPELLS
 *
 * KIND      h: reads all the time; s: stops reading in its spells; l: leaves after a while and comes back by cursor, again and again
 * STREAMS   sa, s or a: the kinds of records that gaps count for it
 * PATH      request target with its query
 * RULE      10=3,4!1 lets n through if n % 10 is 3 and n % 4 is not 1; "-" lets all through
 * SPELLS    1000-5000,8000-9000: between these numbers, as the slowest of kind h has them, it does not read; "-": none
 */

#include "fanout.h"

#include <sys/epoll.h>

/* A word of the shared page of our own, beside those of fanout.h: set once everything is published. */
enum { PUBLISHED = 11 };

/* A batch message holds about 256 KiB. */
#define BUFFER_BYTES (1024 * 1024)
#define STALLED_RECEIVE_BYTES (64 * 1024)
#define RETRY_NS 50000000ull
#define MAX_TERMS 4
#define MAX_SPELLS 32
#define LINE_BYTES 4096

struct term {
    uint32_t modulus, rest;
    int is;
};

struct client {
    char kind;
    int system, audit;
    char path[1024], epoch[64];
    struct term terms[MAX_TERMS];
    int term_count;
    uint64_t spell_from[MAX_SPELLS], spell_to[MAX_SPELLS];
    int spells;
    int fd, open, reading, upgraded, ready;
    uint64_t since, retry_at;
    uint8_t *carry; /* the beginning of a frame whose end has not come yet */
    size_t carried;
    uint64_t place;        /* the number of the last record behind it */
    uint8_t *came, *told;  /* a bit a number: it came; a gap told of it */
    uint64_t received, sum, visits, closes, audit_closes;
    uint64_t gaps, gap_system, gap_audit, evicted, slow;
    uint64_t jumped, twice, late, foreign, wrong_gaps, strange;
    char first[256]; /* the first thing that was not as promised */
};

static struct client *clients;
static int client_count, epoll, port;
static uint64_t records, audit_every, base, received, payload_bytes;
static int base_known;
static uint8_t buffer[BUFFER_BYTES];

#define WRONG(c, counter, ...)                                                              \
    do {                                                                                    \
        (c)->counter++;                                                                     \
        if (!(c)->first[0]) snprintf((c)->first, sizeof(c)->first, __VA_ARGS__);            \
    } while (0)

typedef unsigned long long number;

static inline int bit(const uint8_t *bits, uint64_t n) { return bits[n >> 3] >> (n & 7) & 1; }
static inline void set(uint8_t *bits, uint64_t n) { bits[n >> 3] |= (uint8_t)(1 << (n & 7)); }

static inline int is_audit(uint64_t n) { return n % audit_every == 0; }

static inline int lets_through(const struct client *c, uint64_t n) {
    for (int index = 0; index < c->term_count; index++) {
        const struct term *term = &c->terms[index];
        if (((uint32_t)n % term->modulus == term->rest) != term->is) return 0;
    }
    return 1;
}

/* Go on to a place. What the filter lets through on the way has been left out. */
static void go_past(struct client *c, uint64_t to, const char *what) {
    for (uint64_t n = c->place + 1; n <= to; n++) {
        if (lets_through(c, n)) WRONG(c, jumped, "record %llu was jumped over by %s", (number)n, what);
    }
    c->place = to;
}

/* -- messages ------------------------------------------------------------------------------------------------------ */

static const uint8_t *find(const uint8_t *p, const uint8_t *end, const char *text) {
    const uint8_t *found = memmem(p, (size_t)(end - p), text, strlen(text));
    return found ? found + strlen(text) : NULL;
}

static uint64_t digits(const uint8_t **p, const uint8_t *end) {
    uint64_t value = 0;
    while (*p < end && (unsigned)(**p - '0') < 10) value = value * 10 + (uint64_t)(*(*p)++ - '0');
    return value;
}

static int64_t count_of(const uint8_t *p, const uint8_t *end, const char *key) {
    const uint8_t *at = find(p, end, key);
    return at ? (int64_t)digits(&at, end) : -1;
}

/* The number in a cursor of this client's epoch that follows `key`, as a number of ours; -1 without one. */
static int64_t cursor_of(struct client *c, const uint8_t *p, const uint8_t *end, const char *key) {
    const uint8_t *at = find(p, end, key);
    size_t epoch = strlen(c->epoch);
    if (!at || (size_t)(end - at) < epoch + 1 || memcmp(at, c->epoch, epoch) || at[epoch] != ':') return -1;
    at += epoch + 1;
    uint64_t seq = digits(&at, end);
    return seq < base ? -1 : (int64_t)(seq - base);
}

static void on_hello(struct client *c, const uint8_t *p, const uint8_t *end) {
    const uint8_t *epoch = find(p, end, "\"epoch\":\""), *close = epoch ? memchr(epoch, '"', (size_t)(end - epoch)) : NULL;
    if (!close || (size_t)(close - epoch) >= sizeof c->epoch) {
        WRONG(c, strange, "hello without an epoch");
        return;
    }
    if (!c->epoch[0]) {
        memcpy(c->epoch, epoch, (size_t)(close - epoch));
        const uint8_t *newest = find(p, end, "\"newest\":\"");
        newest = newest ? memchr(newest, ':', (size_t)(end - newest)) : NULL;
        uint64_t seq = newest ? (newest++, digits(&newest, end)) : 0;
        if (!base_known) {
            base = seq;
            base_known = 1;
        }
        if (seq != base) WRONG(c, strange, "it began at %llu and others at %llu", (number)seq, (number)base);
    } else if (memcmp(c->epoch, epoch, (size_t)(close - epoch))) {
        WRONG(c, strange, "another epoch");
    }
}

static void on_gap(struct client *c, const uint8_t *p, const uint8_t *end) {
    int64_t from = cursor_of(c, p, end, "\"from\":\""), to = cursor_of(c, p, end, "\"to\":\"");
    int64_t system = count_of(p, end, "\"system\":"), audit = count_of(p, end, "\"audit\":");
    if (from < (int64_t)c->place || to <= from || to > (int64_t)records || system < 0 || audit < 0) {
        WRONG(c, wrong_gaps, "at %llu: %.*s", (number)c->place, (int)(end - p), (const char *)p);
        return;
    }
    go_past(c, (uint64_t)from, "a gap");
    int64_t systems = 0, audits = 0;
    for (uint64_t n = (uint64_t)from + 1; n <= (uint64_t)to; n++) {
        if (is_audit(n)) audits += c->audit;
        else systems += c->system;
        set(c->told, n);
    }
    if (system != systems || audit != audits)
        WRONG(c, wrong_gaps, "%lld and %lld records, not: %.*s", (long long)systems, (long long)audits, (int)(end - p),
              (const char *)p);
    c->gaps++;
    c->gap_system += (uint64_t)system;
    c->gap_audit += (uint64_t)audit;
    if (find(p, end, "\"reason\":\"evicted\"")) c->evicted++;
    else if (find(p, end, "\"reason\":\"slow_client\"")) c->slow++;
    else WRONG(c, strange, "%.*s", (int)(end - p), (const char *)p);
    c->place = (uint64_t)to;
}

static void on_cursor(struct client *c, const uint8_t *p, const uint8_t *end) {
    int64_t at = cursor_of(c, p, end, "\"cursor\":\"");
    if (at < (int64_t)c->place || at > (int64_t)records)
        WRONG(c, strange, "at %llu: %.*s", (number)c->place, (int)(end - p < 80 ? end - p : 80), (const char *)p);
    else
        go_past(c, (uint64_t)at, "a cursor");
}

/* One record at p, alone or in a batch. Returns the end of what was looked at; NULL if it can't be read. */
static const uint8_t *on_record(struct client *c, const uint8_t *p, const uint8_t *end) {
    int audit = (size_t)(end - p) > 10 && p[9] == 'a';
    int64_t seq = cursor_of(c, p, end, "\"cursor\":\"");
    const uint8_t *mark = find(p, end, "~n=");
    if (seq < 0 || !mark) {
        WRONG(c, strange, "%.*s", (int)(end - p < 120 ? end - p : 120), (const char *)p);
        return NULL;
    }
    uint64_t n = digits(&mark, end);
    received++;
    c->received++;
    c->sum += n;
    if (n != (uint64_t)seq || n < 1 || n > records || audit != is_audit(n)) {
        WRONG(c, strange, "number %llu at cursor %lld, audit: %d", (number)n, (long long)seq, audit);
        return mark;
    }
    if (!lets_through(c, n)) WRONG(c, foreign, "record %llu, which the filter leaves out", (number)n);
    if (n > c->place) {
        go_past(c, n - 1, "the next one");
        c->place = n;
    } else if (bit(c->came, n)) {
        WRONG(c, twice, "record %llu came twice", (number)n);
    } else {
        WRONG(c, late, "record %llu came after %llu", (number)n, (number)c->place);
    }
    set(c->came, n);
    return mark;
}

static int starts(const uint8_t *p, const uint8_t *end, const char *text) {
    size_t size = strlen(text);
    return (size_t)(end - p) >= size && !memcmp(p, text, size);
}

static void on_text(struct client *c, const uint8_t *p, const uint8_t *end) {
    payload_bytes += (uint64_t)(end - p);
    if (starts(p, end, "{\"type\":\"system_log\"") || starts(p, end, "{\"type\":\"audit_log\"")) {
        on_record(c, p, end);
    } else if (starts(p, end, "{\"type\":\"batch\"")) {
        const uint8_t *each = p + 9;
        while (each && (each = find(each, end, "{\"type\":\""))) each = on_record(c, each - 9, end);
    } else if (starts(p, end, "{\"type\":\"hello\"")) {
        on_hello(c, p, end);
    } else if (starts(p, end, "{\"type\":\"gap\"")) {
        on_gap(c, p, end);
    } else if (starts(p, end, "{\"type\":\"ready\"") || starts(p, end, "{\"type\":\"stats\"") ||
               starts(p, end, "{\"type\":\"heartbeat\"") || starts(p, end, "{\"type\":\"goodbye\"")) {
        on_cursor(c, p, end);
        if (starts(p, end, "{\"type\":\"ready\"")) c->ready = 1;
        if (find(p, end, "\"reason\":\"too_slow\"")) c->audit_closes++;
    } else {
        WRONG(c, strange, "%.*s", (int)(end - p < 120 ? end - p : 120), (const char *)p);
    }
}

/* -- connections --------------------------------------------------------------------------------------------------- */

static void send_masked(struct client *c, uint8_t opcode, const uint8_t *payload, size_t size) {
    static const uint8_t mask[4] = {0x5a, 0x13, 0xc7, 0x2e};
    uint8_t frame[6 + 125] = {(uint8_t)(0x80 | opcode), (uint8_t)(0x80 | size), mask[0], mask[1], mask[2], mask[3]};
    for (size_t index = 0; index < size; index++) frame[6 + index] = payload[index] ^ mask[index & 3];
    if (send(c->fd, frame, 6 + size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) return; /* it is gone, or full: no matter */
}

static void watch(struct client *c, int reading) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)(c - clients)};
    if (reading != c->reading && epoll_ctl(epoll, reading ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, c->fd, &event) < 0)
        die("epoll_ctl");
    c->reading = reading;
}

/* Half a frame is forgotten: what was in it comes again, as its cursor was not reached. */
static void drop(struct client *c, uint64_t again) {
    close(c->fd);
    c->open = c->reading = c->upgraded = 0;
    c->carried = 0;
    c->retry_at = again;
}

static void visit(struct client *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    if (c->spells) {
        /* Otherwise the kernel swallows megabytes before the server notices anything. */
        int bytes = STALLED_RECEIVE_BYTES;
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    char after[128] = "", request[2048];
    if (c->epoch[0])
        snprintf(after, sizeof after, "%cafter=%s:%llu", strchr(c->path, '?') ? '&' : '?', c->epoch,
                 (number)(base + c->place));
    int size = snprintf(request, sizeof request,
                        "GET %s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: " WS_KEY "\r\nSec-WebSocket-Version: 13\r\n\r\n",
                        c->path, after, port);
    if (send(c->fd, request, (size_t)size, MSG_NOSIGNAL) != size) die("send");
    c->open = 1;
    c->visits++;
    watch(c, 1);
}

static void on_closed(struct client *c, uint64_t now, int code) {
    c->closes++;
    if (c->kind == 'h') WRONG(c, strange, "closed with %d", code);
    drop(c, now + RETRY_NS);
}

/* Whole frames in p[0..size); returns how many bytes they were. */
static size_t on_frames(struct client *c, const uint8_t *p, size_t size, uint64_t now) {
    size_t done = 0;
    while (c->open && size - done >= 2) {
        const uint8_t *frame = p + done;
        size_t header = 2;
        uint64_t length = frame[1] & 0x7f;
        if (length >= 126) {
            header = length == 126 ? 4 : 10;
            if (size - done < header) break;
            length = 0;
            for (size_t byte = 2; byte < header; byte++) length = length << 8 | frame[byte];
        }
        if (frame[1] & 0x80 || header + length > BUFFER_BYTES / 2) {
            errno = EPROTO;
            die("a frame from the server is masked or too long");
        }
        if (size - done < header + length) break;
        const uint8_t *payload = frame + header;
        done += header + length;
        if (frame[0] == 0x81) {
            on_text(c, payload, payload + length);
        } else if (frame[0] == 0x89) {
            send_masked(c, 0xa, payload, length < 126 ? length : 0);
        } else if (frame[0] == 0x88) {
            send_masked(c, 0x8, payload, length >= 2 ? 2 : 0);
            on_closed(c, now, length >= 2 ? payload[0] << 8 | payload[1] : 1005);
        } else {
            WRONG(c, strange, "a frame that begins with %02x", frame[0]);
        }
    }
    return done;
}

static size_t on_handshake(struct client *c, const uint8_t *p, size_t size, uint64_t now) {
    const uint8_t *end = memmem(p, size, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    size_t done = (size_t)(end - p) + 4;
    if (memmem(p, done, " 101 ", 5) == NULL || memmem(p, done, WS_ACCEPT, strlen(WS_ACCEPT)) == NULL) {
        fprintf(stderr, "handshake refused: %.*s\n", (int)(done < 400 ? done : 400), (const char *)p);
        exit(1);
    }
    c->upgraded = 1;
    c->since = now;
    return done;
}

static void on_readable(struct client *c, uint64_t now) {
    size_t held = c->carried;
    if (held) memcpy(buffer, c->carry, held);
    ssize_t got = recv(c->fd, buffer + held, BUFFER_BYTES - held, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        on_closed(c, now, 1006);
        return;
    }
    size_t size = held + (size_t)got, done = 0;
    if (!c->upgraded) done = on_handshake(c, buffer, size, now);
    if (c->upgraded) done += on_frames(c, buffer + done, size - done, now);
    if (!c->open) return;
    c->carried = size - done;
    if (c->carried) {
        if (c->carried > held || c->carry == NULL) c->carry = realloc(c->carry, c->carried);
        if (c->carry == NULL) die("realloc");
        memcpy(c->carry, buffer + done, c->carried);
    }
}

/* Every other time it says goodbye; else it is gone with what the server has sent unread, as when a cable is pulled. */
static void leave(struct client *c, uint64_t now) {
    static const uint8_t normal[2] = {0x03, 0xe8};
    if (c->visits % 2) {
        send_masked(c, 0x8, normal, 2);
    } else {
        struct linger at_once = {.l_onoff = 1, .l_linger = 0};
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    }
    drop(c, now);
}

static int in_spell(const struct client *c, uint64_t at) {
    for (int index = 0; index < c->spells; index++)
        if (at >= c->spell_from[index] && at < c->spell_to[index]) return 1;
    return 0;
}

/* -- the run ------------------------------------------------------------------------------------------------------- */

static void read_clients(const char *path) {
    char line[LINE_BYTES], streams[4], rule[256], spells[1024];
    int room = 0;
    FILE *file = fopen(path, "r");
    if (!file) die(path);
    while (fgets(line, sizeof line, file)) {
        if (client_count == room) clients = realloc(clients, (size_t)(room += 128) * sizeof *clients);
        if (!clients) die("realloc");
        struct client *c = &clients[client_count++];
        memset(c, 0, sizeof *c);
        if (sscanf(line, "%c %3s %1023s %255s %1023s", &c->kind, streams, c->path, rule, spells) != 5) {
            fprintf(stderr, "not a client: %s", line);
            exit(2);
        }
        c->system = strchr(streams, 's') != NULL;
        c->audit = strchr(streams, 'a') != NULL;
        for (char *p = rule; *p && *p != '-' && c->term_count < MAX_TERMS; p += *p == ',') {
            struct term *term = &c->terms[c->term_count++];
            term->modulus = (uint32_t)strtoul(p, &p, 10);
            term->is = *p++ == '=';
            term->rest = (uint32_t)strtoul(p, &p, 10);
        }
        for (char *p = spells; *p && *p != '-' && c->spells < MAX_SPELLS; p += *p == ',') {
            c->spell_from[c->spells] = strtoull(p, &p, 10);
            p++;
            c->spell_to[c->spells++] = strtoull(p, &p, 10);
        }
        c->came = calloc(1, records / 8 + 1);
        c->told = calloc(1, records / 8 + 1);
        if (!c->came || !c->told) die("calloc");
    }
    fclose(file);
}

static void print_client(struct client *c, int last) {
    uint64_t expected = 0, came = 0, told = 0, missing = 0;
    for (uint64_t n = 1; n <= records; n++) {
        if (!lets_through(c, n)) continue;
        expected++;
        if (bit(c->came, n)) came++;
        else if (bit(c->told, n)) told++;
        else {
            missing++;
            if (!c->first[0]) snprintf(c->first, sizeof c->first, "record %llu never came", (number)n);
        }
    }
    for (char *p = c->first; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ' || (unsigned char)*p > '~') *p = '\'';
    printf("{\"kind\": \"%c\", \"expected\": %llu, \"received\": %llu, \"sum\": %llu, \"came\": %llu, \"told\": %llu, "
           "\"missing\": %llu, \"jumped\": %llu, \"twice\": %llu, \"late\": %llu, \"foreign\": %llu, "
           "\"wrong_gaps\": %llu, \"strange\": %llu, \"place\": %llu, \"gaps\": %llu, \"gap_system\": %llu, "
           "\"gap_audit\": %llu, \"evicted\": %llu, \"slow\": %llu, \"visits\": %llu, \"closed\": %llu, "
           "\"too_slow\": %llu, \"first\": \"%s\"}%s",
           c->kind, (number)expected, (number)c->received, (number)c->sum, (number)came, (number)told, (number)missing,
           (number)c->jumped, (number)c->twice, (number)c->late, (number)c->foreign, (number)c->wrong_gaps,
           (number)c->strange, (number)c->place, (number)c->gaps, (number)c->gap_system, (number)c->gap_audit,
           (number)c->evicted, (number)c->slow, (number)c->visits, (number)c->closes, (number)c->audit_closes, c->first,
           last ? "" : ", ");
}

int main(int count, char **arguments) {
    double seconds = 600, stay = 1;
    const char *page = NULL, *list = NULL;
    for (int index = 1; index + 1 < count; index += 2) {
        const char *name = arguments[index], *value = arguments[index + 1];
        if (!strcmp(name, "--port")) port = atoi(value);
        else if (!strcmp(name, "--shared")) page = value;
        else if (!strcmp(name, "--clients")) list = value;
        else if (!strcmp(name, "--records")) records = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--audit-every")) audit_every = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--stay")) stay = atof(value);
        else if (!strcmp(name, "--seconds")) seconds = atof(value);
        else { fprintf(stderr, "no option %s\n", name); return 2; }
    }
    if (!port || !page || !list || !records || !audit_every) { fprintf(stderr, "see the source\n"); return 2; }
    settle();
    map_shared(page);
    read_clients(list);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0 || client_count < 1) die("no clients");
    uint64_t began = now_ns(), deadline = began + (uint64_t)(seconds * 1e9);
    for (int index = 0; index < client_count; index++) visit(&clients[index]);

    const char *end = "stopped";
    struct epoll_event events[256];
    while (!load(STOP)) {
        uint64_t now = now_ns();
        if (now > deadline) { end = "deadline"; break; }
        int ready = epoll_wait(epoll, events, 256, 10);
        now = now_ns();
        for (int index = 0; index < ready; index++) {
            struct client *c = &clients[events[index].data.u32];
            if (c->open && c->reading) on_readable(c, now);
        }
        uint64_t slowest = UINT64_MAX, behind = 0, connected = 0, published = load(PUBLISHED);
        for (int index = 0; index < client_count; index++) {
            struct client *c = &clients[index];
            connected += (uint64_t)c->ready;
            behind += c->place < records;
            if (c->kind == 'h' && c->place < slowest) slowest = c->place;
        }
        store(CONNECTED, connected);
        store(RECEIVED, received);
        store(MIN_SEQUENCE, slowest);
        for (int index = 0; index < client_count; index++) {
            struct client *c = &clients[index];
            if (!c->open) {
                if (now >= c->retry_at) visit(c);
            } else if (c->kind == 'l') {
                if (!published && c->upgraded && c->ready && now - c->since >= (uint64_t)(stay * 1e9)) leave(c, now);
            } else if (c->spells && c->ready) {
                watch(c, !in_spell(c, slowest));
            }
        }
        if (published && !behind) { end = "complete"; break; }
    }

    for (int index = 0; index < client_count; index++) {
        static const uint8_t normal[2] = {0x03, 0xe8};
        if (!clients[index].open) continue;
        send_masked(&clients[index], 0x8, normal, 2);
        close(clients[index].fd);
    }
    store(CONNECTED, 0);
    printf("{\"end\": \"%s\", \"seconds\": %.3f, \"cpu_seconds\": %.3f, \"received\": %llu, \"bytes\": %llu, "
           "\"clients\": [",
           end, (double)(now_ns() - began) / 1e9, cpu_seconds(), (number)received, (number)payload_bytes);
    for (int index = 0; index < client_count; index++) print_client(&clients[index], index == client_count - 1);
    printf("]}\n");
    return 0;
}
