/* The limit that a service on this broker can reach: a QoS 1 subscriber that does nothing but count.
 * Arguments: host port username password filter count. Prints {"received":n,"seconds":s,"rate":r} from first to last message.
 * Build: cc -O2 -o subscriber subscriber.c -lmosquitto
 */
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static long wanted, received;
static double first, last;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void on_message(struct mosquitto *m, void *d, const struct mosquitto_message *msg, const mosquitto_property *p) {
    (void)d; (void)msg; (void)p;
    if (!received++) first = now();
    last = now();
    if (received >= wanted) mosquitto_disconnect_v5(m, 0, NULL);
}

static void on_subscribe(struct mosquitto *m, void *d, int mid, int n, const int *qos, const mosquitto_property *p) {
    (void)m; (void)d; (void)mid; (void)n; (void)qos; (void)p;
    fprintf(stderr, "subscribed\n");
}

int main(int argc, char **argv) {
    if (argc != 7) { fprintf(stderr, "usage: subscriber HOST PORT USER PASSWORD FILTER COUNT\n"); return 2; }
    wanted = atol(argv[6]);
    mosquitto_lib_init();
    struct mosquitto *m = mosquitto_new("bench-subscriber", true, NULL);
    mosquitto_int_option(m, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
    mosquitto_int_option(m, MOSQ_OPT_RECEIVE_MAXIMUM, 65535);
    mosquitto_username_pw_set(m, argv[3], argv[4]);
    mosquitto_message_v5_callback_set(m, on_message);
    mosquitto_subscribe_v5_callback_set(m, on_subscribe);
    if (mosquitto_connect(m, argv[1], atoi(argv[2]), 60)) { fprintf(stderr, "cannot connect\n"); return 2; }
    while (mosquitto_loop(m, 100, 100) != MOSQ_ERR_SUCCESS) {}
    mosquitto_subscribe_v5(m, NULL, argv[5], 1, 0, NULL);
    double idle = now();
    long before = 0;
    while (mosquitto_loop(m, 100, 1000) == MOSQ_ERR_SUCCESS) {
        if (received != before) { before = received; idle = now(); }
        if (received && now() - idle > 3) break;
    }
    printf("{\"received\":%ld,\"seconds\":%.3f,\"rate\":%.1f}\n", received, last - first, received / (last - first));
    return 0;
}
