/* A libnvidia-ml.so.1 without a GPU: the functions that tidegate/adapters/nvml.py calls through the real
 * pynvml, as nvml.h declares them. NVML_STUB names the scenario (see `is`); a device is a pointer to nothing
 * that is read. `cc -shared -fPIC -o libnvidia-ml.so.1 nvml_stub.c`; with -DOLD it is that of a driver which
 * lacks what newer ones have. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, UNLOADED = 9, TIMEOUT = 10, LOST = 15, MISMATCH = 18 };

typedef void *device;
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned int gpu, memory; } utilisation;

static const unsigned long long GIB = 1ULL << 30;
static const char *UUID = "GPU-00000000-0000-0000-0000-000000000001";
static unsigned int looks; /* how often memory was asked for */

static int is(const char *scenario) {
  const char *given = getenv("NVML_STUB");
  return given && strcmp(given, scenario) == 0;
}

static int say(char *out, unsigned int length, const char *text) {
  strncpy(out, text, length - 1);
  out[length - 1] = 0;
  return OK;
}

static int give(unsigned int *out, unsigned int value) { *out = value; return OK; }

#ifndef OLD
int nvmlInitWithFlags(unsigned int flags) {
  (void)flags;
  return is("unloaded") ? UNLOADED : is("mismatch") ? MISMATCH : OK;
}
#endif
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the stub"; }
int nvmlSystemGetDriverVersion(char *out, unsigned int length) { return say(out, length, "580.00.stub"); }

int nvmlDeviceGetCount_v2(unsigned int *out) { return give(out, is("empty") ? 0 : 1); }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device *out) {
  if (index || is("empty")) return INVALID;
  *out = (device)&looks;
  return OK;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device *out) {
  if (strcmp(uuid, UUID)) return INVALID;
  *out = (device)&looks;
  return OK;
}
int nvmlDeviceGetName(device d, char *out, unsigned int length) { (void)d; return say(out, length, "Stub GPU"); }
int nvmlDeviceGetUUID(device d, char *out, unsigned int length) { (void)d; return say(out, length, UUID); }

int nvmlDeviceGetMemoryInfo(device d, memory *out) {
  (void)d;
  looks++;
  if (is("mute")) return UNSUPPORTED;
  if (is("lost") && looks > 6) return LOST;
  while (is("hung") && looks > 1) pause(); /* a driver that never comes back */
  if (is("silent") && looks > 1) return TIMEOUT; /* it is described once, and never answers again */
  out->total = 80 * GIB;
  out->used = is("out-of-memory") && looks > 4 ? 80 * GIB - GIB / 8 : 20 * GIB;
  out->free = out->total - out->used;
  return OK;
}
int nvmlDeviceGetUtilizationRates(device d, utilisation *out) {
  (void)d;
  if (is("mute")) return UNSUPPORTED;
  out->gpu = is("idle") ? 0 : 60 + looks % 20;
  out->memory = 30;
  return OK;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(device d, unsigned long long *out) {
  (void)d;
  if (is("mute")) return UNSUPPORTED;
  *out = is("throttled") && looks % 2 ? 0x48 /* hardware slowdown, by heat */ : 0x4 /* power cap: normal */;
  return OK;
}
#ifndef OLD
int nvmlDeviceGetCurrentClocksEventReasons(device d, unsigned long long *out) {
  return nvmlDeviceGetCurrentClocksThrottleReasons(d, out);
}
#endif
int nvmlDeviceGetTemperature(device d, int sensor, unsigned int *out) {
  (void)d, (void)sensor;
  return is("mute") ? UNSUPPORTED : give(out, is("hot") ? 91 : 61);
}
int nvmlDeviceGetTemperatureThreshold(device d, int threshold, unsigned int *out) {
  (void)d;
  return threshold == 3 ? give(out, 87) : threshold == 1 ? give(out, 90) : UNSUPPORTED;
}
int nvmlDeviceGetPowerUsage(device d, unsigned int *out) { (void)d; return give(out, 350000); }
int nvmlDeviceGetEnforcedPowerLimit(device d, unsigned int *out) { (void)d; return give(out, 700000); }
int nvmlDeviceGetTotalEccErrors(device d, int type, int counter, unsigned long long *out) {
  (void)d, (void)counter;
  if (is("no-ecc") || is("mute")) return UNSUPPORTED;
  *out = is("ecc") && type == 1 && looks > 5 ? 3 : 2; /* 2 are older than the run */
  return OK;
}
