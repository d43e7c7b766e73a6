/* Packed arrays at a steady rate: one message a second from each of `devices` devices, float32 members in the packed form of docs/wire.md.
 * Arguments: port site point members devices seconds. Prints {"sent":n,"seconds":s}. Build: cc -O2 -o packed packed.c -lmosquitto
 */
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static long acked;

static double now(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void on_publish(struct mosquitto *m, void *d, int mid, int rc, const mosquitto_property *p) {
    (void)m; (void)d; (void)mid; (void)p;
    if (rc < 128) acked++;
}

struct __attribute__((packed)) head { char magic[4]; uint8_t type, flags; uint16_t name; uint32_t boot, seq; int64_t ts; uint32_t members, reserved; };

int main(int argc, char **argv) {
    if (argc != 7) { fprintf(stderr, "usage: packed PORT SITE POINT MEMBERS DEVICES SECONDS\n"); return 2; }
    int members = atoi(argv[4]), devices = atoi(argv[5]);
    long total = (long)(devices * atof(argv[6])), sent = 0;
    size_t name = strlen(argv[3]), size = sizeof(struct head) + name + 4 * (size_t)members;
    char *body = calloc(1, size);
    mosquitto_lib_init();
    struct mosquitto *m = mosquitto_new("bench-packed", true, NULL);
    mosquitto_int_option(m, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
    mosquitto_publish_v5_callback_set(m, on_publish);
    if (mosquitto_connect(m, "127.0.0.1", atoi(argv[1]), 60)) { fprintf(stderr, "cannot connect\n"); return 2; }
    mosquitto_loop(m, 200, 10);
    struct head h = {{'F', 'L', '1', 0}, 0, 3, (uint16_t)name, (uint32_t)now(CLOCK_REALTIME), 0, 0, (uint32_t)members, 0};
    double begin = now(CLOCK_MONOTONIC);
    while (sent < total) {
        long due = (long)((now(CLOCK_MONOTONIC) - begin) * devices);
        for (; sent < due && sent < total; sent++) {
            char topic[256];
            snprintf(topic, sizeof topic, "fl/%s/dev-%ld/telemetry", argv[2], sent % devices);
            h.seq = (uint32_t)(sent / devices);
            h.ts = (int64_t)(now(CLOCK_REALTIME) * 1e3);
            memcpy(body, &h, sizeof h);
            memcpy(body + sizeof h, argv[3], name);
            float *values = (float *)(body + sizeof h + name);
            for (int k = 0; k < members; k++) { float v = 17000 + (float)((k * 31 + sent * 7) % 200); memcpy(values + k, &v, 4); }
            mosquitto_publish_v5(m, NULL, topic, (int)size, body, 1, false, NULL);
        }
        if (mosquitto_loop(m, 1, 100)) { fprintf(stderr, "connection lost\n"); return 2; }
    }
    double until = now(CLOCK_MONOTONIC) + 5;
    while (acked < sent && now(CLOCK_MONOTONIC) < until) mosquitto_loop(m, 5, 100);
    printf("{\"sent\":%ld,\"acked\":%ld,\"seconds\":%.3f}\n", sent, acked, now(CLOCK_MONOTONIC) - begin);
    return 0;
}
