/* The ceiling: what the machine's loopback sockets give when the server does nothing but send ready frames.
 *
 * Frames of 200 bytes of version 1 JSON stand ready in a ring, once for all clients; only the digits of the marker are
 * filled in. A client whose socket is full does not hold up the others before it is a whole ring behind.
 *
 *   --shared FILE --clients N   required
 *   --join N      frames a send() (default 64)
 *   --rate R      records a second, one frame a send(); 0: full speed
 *   --warm S      seconds before measuring    --seconds S   seconds measured
 *
 * Prints "PORT <n>" once it listens, and at the end one line of JSON.
 */

#include "fanout.h"

#define PAYLOAD_BYTES 200
#define FRAME_BYTES (4 + PAYLOAD_BYTES)
#define RING 1024
#define NUMBER_DIGITS 12
#define TIME_DIGITS 16
#define CONNECT_SECONDS 20
#define DRAIN_SECONDS 5

static uint8_t frames[RING * FRAME_BYTES];
static size_t number_at, time_at;
static uint64_t published;

static void digits(uint8_t *at, int width, uint64_t value) {
    for (int index = width - 1; index >= 0; index--, value /= 10) at[index] = (uint8_t)('0' + value % 10);
}

static void prepare(void) {
    static const char head[] = "{\"type\":\"system_log\",\"data\":{\"timestamp\":\"2025-10-08T18:30:45.123Z\","
                               "\"level\":\"INFO\",\"logger\":\"bench\",\"message\":\"~n=";
    static const char tail[] = "\",\"module\":\"server\",\"function\":\"publish\",\"line\":142}}";
    char text[PAYLOAD_BYTES + 64];
    int size = snprintf(text, sizeof text, "%s%0*d t=%0*d~", head, NUMBER_DIGITS, 0, TIME_DIGITS, 0);
    while (size + (int)sizeof tail - 1 < PAYLOAD_BYTES) text[size++] = '.';
    memcpy(text + size, tail, sizeof tail);
    if (size + sizeof tail - 1 != PAYLOAD_BYTES) { errno = 0; die("the message is not 200 bytes"); }
    number_at = 4 + sizeof head - 1;
    time_at = number_at + NUMBER_DIGITS + 3;
    for (int index = 0; index < RING; index++) {
        uint8_t *frame = frames + index * FRAME_BYTES;
        frame[0] = 0x81, frame[1] = 126, frame[2] = 0, frame[3] = PAYLOAD_BYTES;
        memcpy(frame + 4, text, PAYLOAD_BYTES);
    }
}

static void send_all(int fd, const uint8_t *data, size_t size) {
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0) die("send");
        data += sent;
        size -= (size_t)sent;
    }
}

/* Fill in the next frames of the ring. */
static void publish(uint64_t count) {
    uint64_t time = now_ns();
    while (count--) {
        uint8_t *frame = frames + published % RING * FRAME_BYTES;
        digits(frame + number_at, NUMBER_DIGITS, ++published);
        digits(frame + time_at, TIME_DIGITS, time);
    }
}

/* One send() to every client that is behind, of up to `join` frames; returns how many bytes went out. */
static uint64_t send_round(const int *fds, uint64_t *sent, int clients, int join) {
    uint64_t total = 0;
    for (int client = 0; client < clients; client++) {
        uint64_t at = sent[client] % sizeof frames, left = published * FRAME_BYTES - sent[client];
        uint64_t most = (uint64_t)join * FRAME_BYTES - sent[client] % FRAME_BYTES;
        if (left > most) left = most;
        if (left > sizeof frames - at) left = sizeof frames - at;
        if (!left) continue;
        ssize_t done = send(fds[client], frames + at, left, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (done < 0 && errno != EAGAIN) die("send");
        if (done > 0) sent[client] += (uint64_t)done, total += (uint64_t)done;
    }
    return total;
}

/* Records that every client has got, to the last byte. */
static uint64_t all_have(const uint64_t *sent, int clients) {
    uint64_t least = UINT64_MAX;
    for (int client = 0; client < clients; client++) {
        if (sent[client] < least) least = sent[client];
    }
    return least / FRAME_BYTES;
}

static int accept_one(int listener) {
    static const char answer[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                 "Sec-WebSocket-Accept: " WS_ACCEPT "\r\n\r\n";
    int fd = accept(listener, NULL, NULL), one = 1;
    if (fd < 0) die("accept");
    struct timeval limit = {.tv_sec = CONNECT_SECONDS};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    char request[8192];
    size_t size = 0;
    while (memmem(request, size, "\r\n\r\n", 4) == NULL) {
        ssize_t got = recv(fd, request + size, sizeof request - size, 0);
        if (got <= 0) die("recv");
        size += (size_t)got;
    }
    if (memmem(request, size, WS_KEY, strlen(WS_KEY)) == NULL) { errno = 0; die("not our client"); }
    send_all(fd, (const uint8_t *)answer, sizeof answer - 1);
    return fd;
}

static void wait_for(int word, uint64_t value, uint64_t seconds, const char *what) {
    uint64_t deadline = now_ns() + seconds * 1000000000u;
    while (load(word) < value) {
        if (now_ns() > deadline) { errno = ETIMEDOUT; die(what); }
        usleep(1000);
    }
}

int main(int count, char **arguments) {
    int clients = 0, join = 64;
    double rate = 0, warm = 0.3, seconds = 1;
    const char *page = NULL;
    for (int index = 1; index + 1 < count; index += 2) {
        const char *name = arguments[index], *value = arguments[index + 1];
        if (!strcmp(name, "--shared")) page = value;
        else if (!strcmp(name, "--clients")) clients = atoi(value);
        else if (!strcmp(name, "--join")) join = atoi(value);
        else if (!strcmp(name, "--rate")) rate = atof(value);
        else if (!strcmp(name, "--warm")) warm = atof(value);
        else if (!strcmp(name, "--seconds")) seconds = atof(value);
        else { fprintf(stderr, "no option %s\n", name); return 2; }
    }
    if (!page || clients < 1 || join < 1 || join > RING / 2) { fprintf(stderr, "see the source\n"); return 2; }
    settle();
    map_shared(page);
    prepare();

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 2048) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        die("listen");
    /* On Linux this bounds accept() too. */
    struct timeval limit = {.tv_sec = CONNECT_SECONDS};
    setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    printf("PORT %d\n", ntohs(address.sin_port));
    fflush(stdout);
    int *fds = calloc((size_t)clients, sizeof *fds);
    uint64_t *sent = calloc((size_t)clients, sizeof *sent); /* bytes, by client */
    if (fds == NULL || sent == NULL) die("calloc");
    for (int index = 0; index < clients; index++) fds[index] = accept_one(listener);
    wait_for(CONNECTED, (uint64_t)clients, CONNECT_SECONDS, "clients");

    uint64_t began = now_ns(), from = began + (uint64_t)(warm * 1e9), to = from + (uint64_t)(seconds * 1e9);
    uint64_t received_before = 0, published_before = 0, measured_from = 0, now;
    double cpu_before = 0;
    while ((now = now_ns()) < to) {
        if (!measured_from && now >= from) {
            measured_from = now;
            received_before = load(RECEIVED);
            published_before = published;
            cpu_before = cpu_seconds();
            store(SLOT, rate > 0);
        }
        uint64_t room = RING - (published - all_have(sent, clients));
        if (rate > 0) {
            uint64_t due = began + (uint64_t)((double)published / rate * 1e9);
            if (now >= due && room) {
                publish(1);
            } else if (now < due && all_have(sent, clients) == published) {
                struct timespec until = {.tv_sec = (time_t)(due / 1000000000u), .tv_nsec = (long)(due % 1000000000u)};
                clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
                continue;
            }
        } else if (room >= (uint64_t)join) {
            publish((uint64_t)join);
        }
        if (!send_round(fds, sent, clients, join)) usleep(20);
    }
    double wall = (double)(now - measured_from) / 1e9, cpu = cpu_seconds() - cpu_before;
    uint64_t received = load(RECEIVED) - received_before, records = published - published_before;
    store(SLOT, 0);
    for (uint64_t end = now_ns() + DRAIN_SECONDS * 1000000000ull; all_have(sent, clients) < published;) {
        if (now_ns() > end) { errno = ETIMEDOUT; die("drain"); }
        if (!send_round(fds, sent, clients, join)) usleep(100);
    }
    wait_for(MIN_SEQUENCE, published, DRAIN_SECONDS, "drain");
    store(STOP, 1);
    for (int tries = 0; load(CONNECTED) && tries < 2000; tries++) usleep(1000);
    printf("{\"deliveries\": %llu, \"records\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.6f, "
           "\"published\": %llu, \"drained\": true}\n",
           (unsigned long long)received, (unsigned long long)records, wall, cpu, (unsigned long long)published);
    return 0;
}
