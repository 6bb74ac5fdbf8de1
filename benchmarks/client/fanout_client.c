/* The counting client: N WebSocket connections, each checked for loss and order, in one process with one thread.
 *
 * Every message carries a marker, "~n=<sequence> t=<CLOCK_MONOTONIC nanoseconds>~". Per connection the sequence must
 * start at 1 and go up by 1. What the server has to know while it runs (how many are connected, how much arrived, how
 * far the slowest is) stands in a shared page; the rest is printed at the end as one line of JSON.
 *
 *   --port N --shared FILE --clients N   required
 *   --path PATH          request target, with its query if it has one (default /)
 *   --header "Name: x"   a further request header; repeatable
 *   --stall K            the last K connections stop reading once the server says so
 *   --messages N         end when every connection that reads has had N; 0: when the server says so
 *   --seconds S          end after S seconds, whatever happened (default 60)
 */

#include "fanout.h"

#include <sys/epoll.h>

#define BUFFER_BYTES (256 * 1024)
#define MAX_HEADERS 16
#define STALLED_RECEIVE_BYTES (64 * 1024)

/* Latency histograms: 64 steps to each power of two, so within 1.6 %. Slot 0 is "don't record". */
#define STEPS 64
#define BUCKETS (64 * STEPS)
#define SLOTS 3

struct connection {
    int fd;
    int open;
    int reading;
    int upgraded;
    uint8_t *carry; /* the beginning of a frame whose end has not come yet */
    size_t carried;
};

static struct connection *connections;
static uint64_t *sequence; /* last one seen, by connection; apart from the rest, to be scanned quickly */
static int clients;
static int stalled_last;

static uint64_t received, payload_bytes, unmarked, gaps, lost, reordered, fragmented, pings, binary, early_closed;
static uint64_t connected, calls;
static int close_code;
static size_t marker_at;
static uint64_t histogram[SLOTS][BUCKETS], recorded[SLOTS], highest[SLOTS];
static uint8_t buffer[BUFFER_BYTES + 64];

static int bucket_of(uint64_t value) {
    if (value < STEPS) return (int)value;
    int exponent = 63 - __builtin_clzll(value);
    return (exponent - 5) * STEPS + (int)((value >> (exponent - 6)) & (STEPS - 1));
}

static uint64_t bucket_middle(int bucket) {
    if (bucket < STEPS) return (uint64_t)bucket;
    int exponent = bucket / STEPS + 5;
    uint64_t low = (1ull << exponent) + ((uint64_t)(bucket % STEPS) << (exponent - 6));
    return low + (1ull << (exponent - 6)) / 2;
}

static uint64_t quantile(int slot, double part) {
    uint64_t wanted = (uint64_t)((double)recorded[slot] * part), seen = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++) {
        seen += histogram[slot][bucket];
        if (seen > wanted) return bucket_middle(bucket);
    }
    return highest[slot];
}

static void send_masked(struct connection *c, uint8_t opcode, const uint8_t *payload, size_t size) {
    static const uint8_t mask[4] = {0x5a, 0x13, 0xc7, 0x2e};
    uint8_t frame[6 + 125] = {(uint8_t)(0x80 | opcode), (uint8_t)(0x80 | size), mask[0], mask[1], mask[2], mask[3]};
    for (size_t index = 0; index < size; index++) frame[6 + index] = payload[index] ^ mask[index & 3];
    if (send(c->fd, frame, 6 + size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) return; /* it is gone, or full: no matter */
}

static void drop(struct connection *c) {
    close(c->fd);
    c->open = c->reading = 0;
    connected--;
    store(CONNECTED, connected);
}

static void on_text(int index, const uint8_t *text, size_t size, int slot, uint64_t now) {
    received++;
    payload_bytes += size;
    /* The marker stands where it stood in the message before, nearly always. */
    size_t at = marker_at;
    if (at + 4 > size || memcmp(text + at, "~n=", 3) != 0) {
        const uint8_t *found = memmem(text, size, "~n=", 3);
        if (found == NULL) {
            unmarked++;
            return;
        }
        marker_at = at = (size_t)(found - text);
    }
    const uint8_t *p = text + at + 3, *end = text + size;
    uint64_t number = 0;
    while (p < end && (unsigned)(*p - '0') < 10) number = number * 10 + (uint64_t)(*p++ - '0');
    uint64_t expected = sequence[index] + 1;
    if (number == expected) {
        sequence[index] = number;
    } else if (number > expected) {
        gaps++;
        lost += number - expected;
        sequence[index] = number;
    } else {
        reordered++;
    }
    if (slot == 0 || end - p < 4 || memcmp(p, " t=", 3) != 0) return;
    uint64_t time = 0;
    for (p += 3; p < end && (unsigned)(*p - '0') < 10; p++) time = time * 10 + (uint64_t)(*p - '0');
    uint64_t latency = now > time ? now - time : 0;
    histogram[slot][bucket_of(latency)]++;
    recorded[slot]++;
    if (latency > highest[slot]) highest[slot] = latency;
}

/* Whole frames in p[0..size); returns how many bytes they were. */
static size_t on_frames(int index, const uint8_t *p, size_t size, int slot, uint64_t now) {
    struct connection *c = &connections[index];
    size_t done = 0;
    while (size - done >= 2) {
        const uint8_t *frame = p + done;
        size_t header = 2;
        uint64_t length = frame[1] & 0x7f;
        if (length == 126) {
            header = 4;
            if (size - done < header) break;
            length = (uint64_t)frame[2] << 8 | frame[3];
        } else if (length == 127) {
            header = 10;
            if (size - done < header) break;
            length = 0;
            for (int byte = 2; byte < 10; byte++) length = length << 8 | frame[byte];
        }
        if (frame[1] & 0x80 || header + length > BUFFER_BYTES / 2) {
            errno = EPROTO;
            die("a frame from the server is masked or too long");
        }
        if (size - done < header + length) break;
        const uint8_t *payload = frame + header;
        done += header + length;
        uint8_t opcode = frame[0] & 0x0f;
        if (frame[0] == 0x81) {
            on_text(index, payload, length, slot, now);
        } else if (opcode == 0x9) {
            pings++;
            send_masked(c, 0xa, payload, length < 126 ? length : 0);
        } else if (opcode == 0x8) {
            early_closed++;
            close_code = length >= 2 ? payload[0] << 8 | payload[1] : 1005;
            send_masked(c, 0x8, payload, length >= 2 ? 2 : 0);
            drop(c);
            return done;
        } else if (opcode == 0x1) {
            fragmented++; /* its first part, where the marker is */
            on_text(index, payload, length, slot, now);
        } else if (opcode == 0x2) {
            binary++;
        }
    }
    return done;
}

static size_t on_handshake(struct connection *c, uint8_t *p, size_t size) {
    const uint8_t *end = memmem(p, size, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    size_t done = (size_t)(end - p) + 4;
    if (memmem(p, done, " 101 ", 5) == NULL || memmem(p, done, WS_ACCEPT, strlen(WS_ACCEPT)) == NULL) {
        fprintf(stderr, "handshake refused: %.*s\n", (int)(done < 400 ? done : 400), (char *)p);
        exit(1);
    }
    c->upgraded = 1;
    connected++;
    store(CONNECTED, connected);
    return done;
}

static void on_readable(int index, int slot) {
    struct connection *c = &connections[index];
    size_t held = c->carried;
    if (held) memcpy(buffer, c->carry, held);
    ssize_t got = recv(c->fd, buffer + held, BUFFER_BYTES - held, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        early_closed++;
        drop(c);
        return;
    }
    calls++;
    uint64_t now = slot ? now_ns() : 0;
    size_t size = held + (size_t)got, done = 0;
    if (!c->upgraded) done = on_handshake(c, buffer, size);
    if (c->upgraded) done += on_frames(index, buffer + done, size - done, slot, now);
    c->carried = size - done;
    if (c->carried) {
        if (c->carried > held || c->carry == NULL) c->carry = realloc(c->carry, c->carried);
        if (c->carry == NULL) die("realloc");
        memcpy(c->carry, buffer + done, c->carried);
    }
    store(RECEIVED, received);
}

static void open_connection(int index, int port, const char *request, int epoll) {
    struct connection *c = &connections[index];
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    if (index >= clients - stalled_last) {
        /* Otherwise the kernel swallows megabytes before the server notices anything. */
        int bytes = STALLED_RECEIVE_BYTES;
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (send(c->fd, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request)) die("send");
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)index};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) < 0) die("epoll_ctl");
    c->open = c->reading = 1;
}

/* The lowest sequence of the connections that read; 0 if there is none. */
static uint64_t slowest(void) {
    uint64_t least = UINT64_MAX;
    for (int index = 0; index < clients; index++) {
        if (connections[index].reading && sequence[index] < least) least = sequence[index];
    }
    return least == UINT64_MAX ? 0 : least;
}

static void print_slot(int slot) {
    printf("%s{\"count\": %llu, \"p50\": %llu, \"p90\": %llu, \"p99\": %llu, \"max\": %llu}", slot > 1 ? ", " : "",
           (unsigned long long)recorded[slot], (unsigned long long)quantile(slot, 0.5),
           (unsigned long long)quantile(slot, 0.9), (unsigned long long)quantile(slot, 0.99),
           (unsigned long long)highest[slot]);
}

int main(int count, char **arguments) {
    int port = 0, headers = 0;
    uint64_t messages = 0;
    double seconds = 60;
    const char *path = "/", *page = NULL, *header[MAX_HEADERS];
    for (int index = 1; index + 1 < count; index += 2) {
        const char *name = arguments[index], *value = arguments[index + 1];
        if (!strcmp(name, "--port")) port = atoi(value);
        else if (!strcmp(name, "--shared")) page = value;
        else if (!strcmp(name, "--clients")) clients = atoi(value);
        else if (!strcmp(name, "--path")) path = value;
        else if (!strcmp(name, "--header") && headers < MAX_HEADERS) header[headers++] = value;
        else if (!strcmp(name, "--stall")) stalled_last = atoi(value);
        else if (!strcmp(name, "--messages")) messages = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--seconds")) seconds = atof(value);
        else { fprintf(stderr, "no option %s\n", name); return 2; }
    }
    if (!port || !page || clients < 1 || stalled_last > clients) { fprintf(stderr, "see the source\n"); return 2; }
    settle();
    map_shared(page);
    connections = calloc((size_t)clients, sizeof *connections);
    sequence = calloc((size_t)clients, sizeof *sequence);
    char request[8192];
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: " WS_KEY "\r\nSec-WebSocket-Version: 13\r\n", path, port);
    for (int index = 0; index < headers && length < (int)sizeof request; index++)
        length += snprintf(request + length, sizeof request - (size_t)length, "%s\r\n", header[index]);
    if (length + 3 > (int)sizeof request || !connections || !sequence) { fprintf(stderr, "too long\n"); return 2; }
    memcpy(request + length, "\r\n", 3);

    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) die("epoll_create1");
    uint64_t began = now_ns(), deadline = began + (uint64_t)(seconds * 1e9);
    for (int index = 0; index < clients; index++) open_connection(index, port, request, epoll);

    const char *end = "stopped";
    int stalling = 0;
    struct epoll_event events[256];
    for (;;) {
        if (load(STOP)) break;
        if (now_ns() > deadline) { end = "deadline"; break; }
        if (!stalling && stalled_last && load(STALL)) {
            stalling = 1;
            for (int index = clients - stalled_last; index < clients; index++) {
                if (connections[index].open) epoll_ctl(epoll, EPOLL_CTL_DEL, connections[index].fd, NULL);
                connections[index].reading = 0;
            }
        }
        int ready = epoll_wait(epoll, events, 256, 10);
        int slot = (int)load(SLOT);
        if (slot < 0 || slot >= SLOTS) slot = 0;
        for (int index = 0; index < ready; index++) {
            int which = (int)events[index].data.u32;
            if (connections[which].reading) on_readable(which, slot);
        }
        if (ready > 0) {
            uint64_t least = slowest();
            store(MIN_SEQUENCE, least);
            if (messages && least >= messages) { end = "messages"; break; }
            int open = 0;
            for (int which = 0; which < clients && !open; which++) open = connections[which].open;
            if (!open) { end = "closed"; break; }
        }
    }

    uint64_t least = slowest();
    for (int index = 0; index < clients; index++) {
        static const uint8_t normal[2] = {0x03, 0xe8};
        if (!connections[index].open) continue;
        send_masked(&connections[index], 0x8, normal, 2);
        close(connections[index].fd);
    }
    store(CONNECTED, 0);
    double wall = (double)(now_ns() - began) / 1e9;
    printf("{\"end\": \"%s\", \"clients\": %d, \"received\": %llu, \"min_sequence\": %llu, \"bytes\": %llu, "
           "\"unmarked\": %llu, \"gaps\": %llu, \"lost\": %llu, \"reordered\": %llu, \"fragmented\": %llu, "
           "\"binary\": %llu, \"pings\": %llu, \"closed\": %llu, \"close_code\": %d, \"recv_calls\": %llu, "
           "\"cpu_seconds\": %.4f, \"seconds\": %.4f, \"latency_ns\": [",
           end, clients, (unsigned long long)received, (unsigned long long)least, (unsigned long long)payload_bytes,
           (unsigned long long)unmarked, (unsigned long long)gaps, (unsigned long long)lost,
           (unsigned long long)reordered, (unsigned long long)fragmented, (unsigned long long)binary,
           (unsigned long long)pings, (unsigned long long)early_closed, close_code, (unsigned long long)calls,
           cpu_seconds(), wall);
    for (int slot = 1; slot < SLOTS; slot++) print_slot(slot);
    printf("]}\n");
    return 0;
}
