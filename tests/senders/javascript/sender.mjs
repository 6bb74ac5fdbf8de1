// Sends what a service in JavaScript may log, by the OpenTelemetry JavaScript SDK, and ends.
//
//     node sender.mjs http/protobuf|http/json|grpc ENDPOINT [NUMBER]
//
// With NUMBER it sends so many numbered records instead, every tenth of them an audit record.
import { ROOT_CONTEXT, TraceFlags, trace } from "@opentelemetry/api";
import { SeverityNumber } from "@opentelemetry/api-logs";
import { OTLPLogExporter as GrpcExporter } from "@opentelemetry/exporter-logs-otlp-grpc";
import { OTLPLogExporter as JsonExporter } from "@opentelemetry/exporter-logs-otlp-http";
import { OTLPLogExporter as ProtobufExporter } from "@opentelemetry/exporter-logs-otlp-proto";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchLogRecordProcessor, LoggerProvider } from "@opentelemetry/sdk-logs";

const [protocol, endpoint, number] = process.argv.slice(2);
const exporters = {
  grpc: () => new GrpcExporter({ url: endpoint }),
  "http/json": () => new JsonExporter({ url: `${endpoint}/v1/logs`, compression: "gzip" }),
  "http/protobuf": () => new ProtobufExporter({ url: `${endpoint}/v1/logs`, compression: "gzip" }),
};
const provider = new LoggerProvider({
  resource: resourceFromAttributes({
    "service.name": "storefront",
    "service.version": "7.1",
    "host.cpus": 8,
    "host.tags": ["eu", "blue"],
  }),
  // What stands in front of it is all sent: shutdown() exports every batch.
  processors: [new BatchLogRecordProcessor({ exporter: exporters[protocol](), maxQueueSize: 100_000 })],
});

function kinds() {
  const at = [1764000000, 123456789];
  const logger = provider.getLogger("storefront.cart", "2.3.4");
  const span = trace.setSpanContext(ROOT_CONTEXT, {
    traceId: "0af7651916cd43dd8448eb211c80319c",
    spanId: "b7ad6b7169203331",
    traceFlags: TraceFlags.SAMPLED,
  });
  logger.emit({
    timestamp: at,
    severityNumber: SeverityNumber.WARN2,
    severityText: "warn",
    body: "Stock is low – 3 left ✓",
    context: span,
    attributes: {
      text: "naïve \u0000 \"quoted\" 😀",
      empty: "",
      yes: true,
      no: false,
      zero: 0,
      negative: -42,
      large: Number.MAX_SAFE_INTEGER,
      double: 0.1,
      bytes: new Uint8Array([0, 1, 254, 255]),
      texts: ["a", "", "c"],
      mixed: [1, 2.5, true, null, "x", ["y"]],
      nothing: null,
      nested: { sku: "b-17", sizes: [38, 39.5], stock: { left: 3, sold: null } },
    },
  });
  for (const name of ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"]) {
    logger.emit({ timestamp: at, severityNumber: SeverityNumber[name], severityText: name, body: `at ${name}` });
  }
  logger.emit({ timestamp: at, severityNumber: SeverityNumber.INFO3, body: "without a text" });
  logger.emit({ timestamp: at, body: "without a severity" });
  const error = new TypeError("price is not a number");
  error.stack = "TypeError: price is not a number\n    at total (cart.js:12:5)";
  logger.emit({ timestamp: at, severityNumber: SeverityNumber.ERROR, body: "Total failed", exception: error });
  logger.emit({
    timestamp: at,
    severityNumber: SeverityNumber.INFO,
    eventName: "cart.checked_out",
    body: { order: 17, lines: [{ sku: "b-17", price: 9.5 }], coupon: null },
  });
  logger.emit({
    timestamp: at,
    severityNumber: SeverityNumber.INFO,
    body: "Role granted",
    context: span,
    attributes: {
      is_audit: true,
      "audit.action": "role_grant",
      "audit.actor.id": "ann",
      "audit.target.id": "user/u17",
      "audit.outcome": "success",
      "audit.metadata.role": "admin",
      "log.record.uid": "dd6481af-690a-445f-9b9c-d629c291e968",
    },
  });
  provider.getLogger("audit.role").emit({ timestamp: at, severityNumber: SeverityNumber.INFO, body: "by its name" });
  logger.emit({ timestamp: at, severityNumber: SeverityNumber.INFO, body: "[AUDIT] by its text" });
  logger.emit({ timestamp: at, severityNumber: SeverityNumber.INFO, body: "no", attributes: { is_audit: false } });
}

function numbered(count) {
  const logger = provider.getLogger("storefront.orders");
  for (let index = 0; index < count; index += 1) {
    logger.emit({
      severityNumber: SeverityNumber.INFO,
      body: `order ${index}`,
      attributes: { "log.record.uid": `order-${index}`, is_audit: index % 10 === 0 },
    });
  }
}

if (number === undefined) kinds();
else numbered(Number(number));
await provider.shutdown();
