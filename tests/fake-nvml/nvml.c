/* A pretend NVML for faults that no one can order: lost GPUs, hangs, XIDs, unknown codes.
 *
 * It reads its orders from the file named by FAKE_NVML at every call, so that a test changes the weather while a probe
 * runs. One order a line:
 *   devices N             how many GPUs (default 1)
 *   init CODE             nvmlInit_v2 answers CODE
 *   lost D                everything about GPU D answers 15 (GPU is lost)
 *   hang                  nvmlDeviceGetMemoryInfo_v2 does not return while this line stands
 *   used D BYTES          used memory of GPU D (default 1000000000)
 *   fail CALL CODE        CALL (the part after nvmlDeviceGet) answers CODE
 *   throttle MASK         clock throttle reasons
 *   process D PID BYTES   a compute process; BYTES -1 is "not available"
 *   print                 nvmlInit_v2 and every reading print to stdout, as some libraries do
 *   xid D NUMBER, ecc D KIND   an event, delivered once, in the order of the lines (KIND 1 single, 2 double bit)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned int ret_t;
typedef struct { int ordinal; } *device_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;
typedef struct { device_t device; unsigned long long type, data; unsigned gpu_instance, compute_instance; } event_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10, LOST = 15 };
enum { MAX_DEVICES = 16, MAX_TEXT = 1 << 16 };
static int handles[MAX_DEVICES];

/* The orders, read anew. Threads of one process call at once, so each call has its own copy. */
static char *orders(void) {
    char *text = calloc(1, MAX_TEXT);
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (file) {
        size_t n = fread(text, 1, MAX_TEXT - 1, file);
        text[n] = 0;
        fclose(file);
    }
    return text;
}

/* Calls `see` with each line's four words ("" when missing) until it returns non-zero. */
static long each(int (*see)(char w[4][64], void *), void *state) {
    char *text = orders(), *rest = text, *line;
    long found = 0;
    while (!found && (line = strsep(&rest, "\n"))) {
        char w[4][64] = {"", "", "", ""};
        sscanf(line, "%63s %63s %63s %63s", w[0], w[1], w[2], w[3]);
        found = see(w, state);
    }
    free(text);
    return found;
}

struct want { const char *word, *first; long value; };
static int match(char w[4][64], void *state) {
    struct want *want = state;
    if (strcmp(w[0], want->word) || (want->first && strcmp(w[1], want->first))) return 0;
    want->value = atol(want->first ? w[2] : w[1]);
    return 1;
}
/* The number after `word` (and `first`), or `otherwise`. */
static long value(const char *word, const char *first, long otherwise) {
    struct want want = {word, first, 0};
    return each(match, &want) ? want.value : otherwise;
}
static int says(const char *word, const char *first) {
    struct want want = {word, first, 0};
    return (int)each(match, &want);
}

static int ordinal_of(device_t device) { return (int)((int *)device - handles); }
static ret_t state_of(device_t device, const char *call) {
    char ordinal[16];
    snprintf(ordinal, sizeof ordinal, "%d", ordinal_of(device));
    if (says("print", NULL)) { printf("nvml: %s\n", call); fflush(stdout); }
    if (says("lost", ordinal)) return LOST;
    return (ret_t)value("fail", call, OK);
}
#define GUARD(device, call) do { ret_t s_ = state_of(device, call); if (s_) return s_; } while (0)

ret_t nvmlInit_v2(void) {
    if (says("print", NULL)) { printf("NVML initialised, and proud of it\n"); fflush(stdout); }
    return (ret_t)value("init", NULL, OK);
}
ret_t nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(ret_t code) { (void)code; return "as ordered"; }
ret_t nvmlSystemGetDriverVersion(char *text, unsigned length) { snprintf(text, length, "570.00.fake"); return OK; }
ret_t nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned)value("devices", NULL, 1); return (ret_t)value("fail", "Count", OK); }
ret_t nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *device) {
    if (index >= MAX_DEVICES) return NOT_FOUND;
    *device = (device_t)&handles[index];
    GUARD(*device, "Handle");
    return OK;
}
ret_t nvmlDeviceGetIndex(device_t device, unsigned *index) { *index = (unsigned)ordinal_of(device); return OK; }
ret_t nvmlDeviceGetName(device_t device, char *text, unsigned length) { GUARD(device, "Name"); snprintf(text, length, "Fake GPU"); return OK; }
ret_t nvmlDeviceGetUUID(device_t device, char *text, unsigned length) {
    GUARD(device, "UUID");
    snprintf(text, length, "GPU-fake-%d", ordinal_of(device));
    return OK;
}
ret_t nvmlDeviceGetPciInfo_v3(device_t device, pci_t *pci) {
    GUARD(device, "PciInfo");
    memset(pci, 0, sizeof *pci);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", ordinal_of(device));
    return OK;
}
ret_t nvmlDeviceGetMemoryInfo_v2(device_t device, memory_v2_t *memory) {
    char ordinal[16];
    snprintf(ordinal, sizeof ordinal, "%d", ordinal_of(device));
    while (says("hang", NULL)) usleep(20000);
    GUARD(device, "MemoryInfo");
    if (memory->version != (sizeof *memory | (2u << 24))) return INVALID;
    memory->total = 16000000000ull;
    memory->used = (unsigned long long)value("used", ordinal, 1000000000);
    memory->reserved = 0;
    memory->free = memory->total - memory->used;
    return OK;
}
ret_t nvmlDeviceGetTemperature(device_t device, unsigned sensor, unsigned *celsius) { (void)sensor; GUARD(device, "Temperature"); *celsius = 61; return OK; }
ret_t nvmlDeviceGetPowerUsage(device_t device, unsigned *milliwatts) { GUARD(device, "PowerUsage"); *milliwatts = 250000; return OK; }
ret_t nvmlDeviceGetClockInfo(device_t device, unsigned kind, unsigned *mhz) { GUARD(device, "ClockInfo"); *mhz = kind == 1 ? 1980 : 2600; return OK; }
ret_t nvmlDeviceGetUtilizationRates(device_t device, utilization_t *rates) { GUARD(device, "UtilizationRates"); rates->gpu = 97; rates->memory = 80; return OK; }
ret_t nvmlDeviceGetCurrentClocksThrottleReasons(device_t device, unsigned long long *reasons) {
    GUARD(device, "ThrottleReasons");
    *reasons = (unsigned long long)value("throttle", NULL, 0);
    return OK;
}
ret_t nvmlDeviceGetTotalEccErrors(device_t device, unsigned kind, unsigned counter, unsigned long long *count) {
    (void)counter;
    GUARD(device, "TotalEccErrors");
    *count = kind == 0 ? 3 : 1;
    return OK;
}
ret_t nvmlDeviceGetPcieReplayCounter(device_t device, unsigned *count) { GUARD(device, "PcieReplayCounter"); *count = 7; return OK; }

struct fill { int ordinal; unsigned room, count; process_t *out; };
static int fill_process(char w[4][64], void *state) {
    struct fill *fill = state;
    if (strcmp(w[0], "process") || atoi(w[1]) != fill->ordinal) return 0;
    if (fill->out && fill->count < fill->room) {
        process_t *p = &fill->out[fill->count];
        memset(p, 0, sizeof *p);
        p->pid = (unsigned)atoi(w[2]);
        p->used = (unsigned long long)atoll(w[3]); /* -1 is all ones: "not available" */
    }
    fill->count++;
    return 0;
}
ret_t nvmlDeviceGetComputeRunningProcesses_v3(device_t device, unsigned *count, process_t *out) {
    GUARD(device, "ComputeRunningProcesses");
    struct fill fill = {ordinal_of(device), *count, 0, out};
    each(fill_process, &fill);
    int too_small = fill.count > *count;
    *count = fill.count;
    return too_small ? TOO_SMALL : OK;
}

static unsigned long delivered;
struct nth { unsigned long skip; event_t *event; };
static int nth_event(char w[4][64], void *state) {
    struct nth *nth = state;
    int xid = !strcmp(w[0], "xid");
    if (!xid && strcmp(w[0], "ecc")) return 0;
    if (nth->skip--) return 0;
    nth->event->device = (device_t)&handles[atoi(w[1])];
    nth->event->type = xid ? 8 : (unsigned long long)atoll(w[2]);
    nth->event->data = xid ? (unsigned long long)atoll(w[2]) : 0;
    return 1;
}
ret_t nvmlEventSetCreate(void **set) { *set = &delivered; return OK; }
ret_t nvmlEventSetFree(void *set) { (void)set; return OK; }
ret_t nvmlDeviceGetSupportedEventTypes(device_t device, unsigned long long *types) { GUARD(device, "SupportedEventTypes"); *types = 1 | 2 | 8; return OK; }
ret_t nvmlDeviceRegisterEvents(device_t device, unsigned long long types, void *set) { (void)types; (void)set; GUARD(device, "RegisterEvents"); return OK; }
ret_t nvmlEventSetWait_v2(void *set, event_t *event, unsigned timeout_ms) {
    (void)set;
    memset(event, 0, sizeof *event);
    for (unsigned waited = 0;; waited += 10) {
        struct nth nth = {delivered, event};
        if (each(nth_event, &nth)) {
            delivered++;
            return OK;
        }
        if (waited >= timeout_ms) return TIMEOUT;
        usleep(10000);
    }
}
