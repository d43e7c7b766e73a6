/* How late a 1 ms timer fires on one core: the noise floor below every latency measured there.
 * Arguments: cpu seconds. Prints {"p50_ms":..,"p99_ms":..,"max_ms":..} of lateness. Build: cc -O2 -o probe probe.c
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 3) { fprintf(stderr, "usage: probe CPU SECONDS\n"); return 2; }
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(atoi(argv[1]), &set);
    sched_setaffinity(0, sizeof set, &set);
    long n = (long)(atof(argv[2]) * 1000);
    double *late = malloc(n * sizeof *late);
    struct timespec due, now;
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (long i = 0; i < n; i++) {
        due.tv_nsec += 1000000;
        if (due.tv_nsec >= 1000000000) { due.tv_nsec -= 1000000000; due.tv_sec++; }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
        clock_gettime(CLOCK_MONOTONIC, &now);
        late[i] = (now.tv_sec - due.tv_sec) * 1e3 + (now.tv_nsec - due.tv_nsec) * 1e-6;
    }
    qsort(late, n, sizeof *late, by_value);
    printf("{\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"max_ms\":%.4f}\n", late[n / 2], late[(long)(n * .99)], late[n - 1]);
    return 0;
}
