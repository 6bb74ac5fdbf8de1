/* What the counting client and the C server share: the page of counters, the handshake, small helpers. Linux only. */

#ifndef FANOUT_H
#define FANOUT_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Words of the shared page; benchmarks/fanout_shared.py has the same numbers. Written by the client: */
enum { CONNECTED = 0, RECEIVED = 1, MIN_SEQUENCE = 2 };
/* Written by the server, on a cache line of their own: */
enum { STOP = 8, STALL = 9, SLOT = 10 };

#define PAGE_BYTES 4096

/* The key and the answer of RFC 6455's example: both sides are ours, so nobody has to compute SHA-1. */
#define WS_KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define WS_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

static volatile uint64_t *shared;

static inline uint64_t load(int word) { return __atomic_load_n(&shared[word], __ATOMIC_ACQUIRE); }
static inline void store(int word, uint64_t value) { __atomic_store_n(&shared[word], value, __ATOMIC_RELEASE); }

static void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "failed");
    exit(1);
}

static void map_shared(const char *path) {
    int file = open(path, O_RDWR);
    if (file < 0) die(path);
    void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (page == MAP_FAILED) die("mmap");
    close(file);
    shared = page;
}

static inline uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* End with whoever started us, have room for many sockets, and learn of a closed one from errno. */
static void settle(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

#endif
