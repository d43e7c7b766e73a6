/* QoS 1 publisher as fast as the broker takes it, for the reference of bench/e2e.py. Same message as loadgen sends.
 * Arguments: host port topic count. Prints {"acked":n,"seconds":s}. Build: cc -O2 -o publisher publisher.c -lmosquitto
 */
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static long acked;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void on_publish(struct mosquitto *m, void *d, int mid, int rc, const mosquitto_property *p) {
    (void)m; (void)d; (void)mid; (void)p;
    if (rc < 128) acked++;
}

int main(int argc, char **argv) {
    if (argc != 5) { fprintf(stderr, "usage: publisher HOST PORT TOPIC COUNT\n"); return 2; }
    long count = atol(argv[4]), sent = 0;
    mosquitto_lib_init();
    struct mosquitto *m = mosquitto_new("bench-publisher", true, NULL);
    mosquitto_int_option(m, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
    mosquitto_int_option(m, MOSQ_OPT_SEND_MAXIMUM, 65535);
    mosquitto_publish_v5_callback_set(m, on_publish);
    if (mosquitto_connect(m, argv[1], atoi(argv[2]), 60)) { fprintf(stderr, "cannot connect\n"); return 2; }
    mosquitto_loop(m, 200, 10);
    double begin = now();
    char body[256];
    while (acked < count) {
        while (sent < count && sent - acked < 1000) {
            int n = snprintf(body, sizeof body, "{\"v\":1,\"boot\":1760000000,\"seq\":%ld,\"ts\":1760000000123,\"p\":{\"supply_air_temperature_c\":50.00}}", sent);
            mosquitto_publish_v5(m, NULL, argv[3], n, body, 1, false, NULL);
            sent++;
        }
        if (mosquitto_loop(m, 5, 1000)) { fprintf(stderr, "connection lost\n"); return 2; }
    }
    printf("{\"acked\":%ld,\"seconds\":%.3f}\n", acked, now() - begin);
    return 0;
}
