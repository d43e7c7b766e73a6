/* Load generator: one-reading JSON telemetry at a steady rate over one MQTT v5 connection at QoS 1, and the commands it causes.
 *
 * Device k of `devices` speaks as fl/{site}/dev-{k}. Every `spike_every`-th round one sample of a device is above the rule's limit and
 * the next is below it again: the service must answer the first with a command of value 100 and the second with one of value 0.
 * Each command is acknowledged as a device would. The time from publishing a spike to receiving its command is one latency sample.
 * Prints one JSON object; docs/bench.md has the contract. Build: cc -O2 -o loadgen loadgen.c -lmosquitto -lm
 */
#define _GNU_SOURCE
#include <errno.h>
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *host = "127.0.0.1", *user, *password, *site = "bench", *out_path;
static int port = 1883, devices = 1000, spike_every = 40, cpu = -1;
static double rate = 10000, seconds = 10, drain = 5;
static long sent, acked, expected, received, acks_sent, unexpected, overrun;
static double *latency;
#define RING 64
typedef struct { double at[RING]; int value[RING]; unsigned head, tail; } Queue; /* commands a device still waits for, oldest first */
static Queue *waiting;
static long *seqs;
static char *is_high; /* the device's last sample was above the limit */
static long latency_count, latency_room;
static int connected, subscribed;

static double now(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void on_connect(struct mosquitto *m, void *data, int rc, int flags, const mosquitto_property *props) {
    (void)data; (void)flags; (void)props;
    if (rc) { fprintf(stderr, "refused: %s\n", mosquitto_reason_string(rc)); exit(2); }
    char filter[256];
    snprintf(filter, sizeof filter, "fl/%s/+/command", site);
    mosquitto_subscribe_v5(m, NULL, filter, 1, 0, NULL);
    connected = 1;
}

static void on_subscribe(struct mosquitto *m, void *d, int mid, int n, const int *qos, const mosquitto_property *p) {
    (void)m; (void)d; (void)mid; (void)n; (void)p;
    if (qos[0] >= 128) { fprintf(stderr, "subscription refused\n"); exit(2); }
    subscribed = 1;
}

static void on_publish(struct mosquitto *m, void *d, int mid, int rc, const mosquitto_property *p) {
    (void)m; (void)d; (void)mid; (void)p;
    if (rc < 128) acked++;
}

static void on_message(struct mosquitto *m, void *d, const struct mosquitto_message *msg, const mosquitto_property *p) {
    (void)d; (void)p;
    double at = now(CLOCK_MONOTONIC);
    char *text = strndup(msg->payload, msg->payloadlen);
    char *dev = strstr(msg->topic, "/dev-"), *value = strstr(text, "\"value\":"), *id = strstr(text, "\"id\":\"");
    if (dev && value && id) {
        int k = atoi(dev + 5);
        int v = (int)atof(value + 8);
        if (k >= 0 && k < devices) {
            Queue *q = &waiting[k];
            if (q->head != q->tail && q->value[q->head % RING] == v) {
                received++;
                if (v == 100 && latency_count < latency_room) latency[latency_count++] = at - q->at[q->head % RING];
                q->head++;
            } else unexpected++;
        }
        char *end = strchr(id + 6, '"');
        if (end) {
            char topic[256], body[512];
            snprintf(topic, sizeof topic, "fl/%s/dev-%d/ack", site, k);
            int n = snprintf(body, sizeof body, "{\"v\":1,\"id\":\"%.*s\",\"status\":\"accepted\"}", (int)(end - id - 6), id + 6);
            mosquitto_publish_v5(m, NULL, topic, n, body, 1, false, NULL);
            acks_sent++;
        }
    }
    free(text);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(double q) { return latency_count ? latency[(long)(q * (latency_count - 1))] * 1e3 : -1; }

static void send_one(struct mosquitto *m, long i, long boot, int is_last) {
    int k = i % devices;
    long round = i / devices;
    int phase = (int)((round + k) % spike_every);
    int spike = phase == 1 && !is_last, back = is_high[k] && !spike;
    is_high[k] = spike;
    char topic[256], body[512];
    snprintf(topic, sizeof topic, "fl/%s/dev-%d/telemetry", site, k);
    double value = spike ? 95.0 : 50.0 + (i % 1000) * 0.01;
    long ts = (long)(now(CLOCK_REALTIME) * 1e3);
    int n = snprintf(body, sizeof body, "{\"v\":1,\"boot\":%ld,\"seq\":%ld,\"ts\":%ld,\"p\":{\"supply_air_temperature_c\":%.2f}}", boot, seqs[k]++, ts, value);
    if (spike || back) {
        Queue *q = &waiting[k];
        if (q->tail - q->head == RING) { q->head++; overrun++; } /* the oldest is given up, and stays missing */
        q->at[q->tail % RING] = now(CLOCK_MONOTONIC);
        q->value[q->tail++ % RING] = spike ? 100 : 0;
        expected++;
    }
    if (mosquitto_publish_v5(m, NULL, topic, n, body, 1, false, NULL) == MOSQ_ERR_SUCCESS) sent++;
}

int main(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *a = argv[i], *v = argv[i + 1];
        if (!strcmp(a, "--host")) host = v;
        else if (!strcmp(a, "--port")) port = atoi(v);
        else if (!strcmp(a, "--username")) user = v;
        else if (!strcmp(a, "--password")) password = v;
        else if (!strcmp(a, "--site")) site = v;
        else if (!strcmp(a, "--devices")) devices = atoi(v);
        else if (!strcmp(a, "--rate")) rate = atof(v);
        else if (!strcmp(a, "--seconds")) seconds = atof(v);
        else if (!strcmp(a, "--spike-every")) spike_every = atoi(v);
        else if (!strcmp(a, "--drain")) drain = atof(v);
        else if (!strcmp(a, "--cpu")) cpu = atoi(v);
        else if (!strcmp(a, "--raw")) out_path = v;
        else { fprintf(stderr, "unknown argument %s\n", a); return 2; }
    }
    if (cpu >= 0) { cpu_set_t set; CPU_ZERO(&set); CPU_SET(cpu, &set); sched_setaffinity(0, sizeof set, &set); }
    seqs = calloc(devices, sizeof *seqs);
    waiting = calloc(devices, sizeof *waiting);
    is_high = calloc(devices, 1);
    latency_room = (long)(rate * seconds / spike_every) + 1000;
    latency = malloc(latency_room * sizeof *latency);
    mosquitto_lib_init();
    char client[64];
    snprintf(client, sizeof client, "loadgen-%d", getpid());
    struct mosquitto *m = mosquitto_new(client, true, NULL);
    mosquitto_int_option(m, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
    mosquitto_int_option(m, MOSQ_OPT_SEND_MAXIMUM, 65535);
    mosquitto_int_option(m, MOSQ_OPT_TCP_NODELAY, 1);
    if (user) mosquitto_username_pw_set(m, user, password);
    mosquitto_connect_v5_callback_set(m, on_connect);
    mosquitto_subscribe_v5_callback_set(m, on_subscribe);
    mosquitto_publish_v5_callback_set(m, on_publish);
    mosquitto_message_v5_callback_set(m, on_message);
    if (mosquitto_connect(m, host, port, 60)) { fprintf(stderr, "cannot connect to %s:%d\n", host, port); return 2; }
    while (!subscribed) if (mosquitto_loop(m, 10, 100)) { fprintf(stderr, "connection lost\n"); return 2; }

    long boot = (long)now(CLOCK_REALTIME), total = (long)(rate * seconds), i = 0, slowest_backlog = 0;
    double begin = now(CLOCK_MONOTONIC), last_publish = begin;
    while (i < total) {
        long due = (long)((now(CLOCK_MONOTONIC) - begin) * rate);
        if (due > total) due = total;
        if (due - i > slowest_backlog) slowest_backlog = due - i;
        /* libmosquitto slows down by orders of magnitude with many messages in flight: stay well below */
        for (long burst = 0; i < due && burst < 200 && sent + acks_sent - acked < 2000; i++, burst++) send_one(m, i, boot, 0);
        last_publish = now(CLOCK_MONOTONIC);
        if (mosquitto_loop(m, 0, 200)) { fprintf(stderr, "connection lost\n"); return 2; }
        if (i >= due) { struct timespec t = {0, 300000}; nanosleep(&t, NULL); }
    }
    for (long k = 0; k < devices; k++) if (is_high[(i + k) % devices]) send_one(m, i + k, boot, 1); /* leave every device as it was found */
    double until = now(CLOCK_MONOTONIC) + drain;
    while (now(CLOCK_MONOTONIC) < until && (acked < sent + acks_sent || received < expected))
        if (mosquitto_loop(m, 5, 200)) break;
    until = now(CLOCK_MONOTONIC) + 0.2;
    while (now(CLOCK_MONOTONIC) < until) if (mosquitto_loop(m, 5, 200)) break;
    if (out_path) {
        FILE *f = fopen(out_path, "w");
        fprintf(f, "latency_ms\n");
        for (long k = 0; k < latency_count; k++) fprintf(f, "%.4f\n", latency[k] * 1e3);
        fclose(f);
    }
    qsort(latency, latency_count, sizeof *latency, by_value);
    printf("{\"sent\":%ld,\"acked\":%ld,\"seconds\":%.3f,\"rate\":%.1f,\"commands_expected\":%ld,\"commands_received\":%ld,"
           "\"commands_unexpected\":%ld,\"overrun\":%ld,\"latencies\":%ld,\"p50_ms\":%.3f,\"p90_ms\":%.3f,\"p99_ms\":%.3f,"
           "\"max_ms\":%.3f,\"schedule_backlog_max\":%ld}\n",
           sent, acked - acks_sent, last_publish - begin, sent / (last_publish - begin), expected, received, unexpected, overrun,
           latency_count, quantile(.5), quantile(.9), quantile(.99), quantile(1), slowest_backlog);
    mosquitto_disconnect_v5(m, 0, NULL);
    mosquitto_loop(m, 10, 10);
    return 0;
}
