/* A pretend CUDA driver for faults that no one can order. Device memory is the host's, kernels do nothing, and after a number
 * of launches the driver answers what it is told.
 *
 * Each process takes its order, a file named by a number, from the folder FAKE_CUDA, and removes it: the lowest is the
 * first process's. A file holds `AFTER CODE`: so many launches work, then everything answers CODE. AFTER 0 fails cuInit. No
 * file: all works.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *handle_t;
static long after = -1, launches = 0;
static int code = 0;

/* What every call answers. */
static int now(void) { return code != 0 && launches >= after ? code : 0; }

int cuInit(unsigned flags) {
    (void)flags;
    const char *folder = getenv("FAKE_CUDA");
    DIR *open = folder ? opendir(folder) : NULL;
    long first = -1;
    for (struct dirent *entry; open && (entry = readdir(open));) {
        long number = atol(entry->d_name);
        if (number > 0 && (first < 0 || number < first)) first = number;
    }
    if (open) closedir(open);
    if (first > 0) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%ld", folder, first);
        FILE *file = fopen(path, "r");
        if (file && fscanf(file, "%ld %d", &after, &code) != 2) code = 0;
        if (file) fclose(file);
        remove(path);
    }
    return now();
}

int cuDriverGetVersion(int *out) { *out = 12080; return now(); }
int cuDeviceGetCount(int *out) { *out = 1; return now(); }
int cuDeviceGet(int *out, int ordinal) { *out = ordinal; return now(); }
int cuDeviceGetName(char *out, int length, int device) { (void)device; snprintf(out, (size_t)length, "Pretend GPU"); return now(); }
int cuDeviceGetAttribute(int *out, int which, int device) {
    (void)device;
    *out = which == 75 ? 7 : which == 76 ? 5 : which == 16 ? 40 : which == 97 ? 65536 : 0;
    return now();
}
int cuCtxCreate_v2(handle_t *out, unsigned flags, int device) { (void)flags, (void)device; *out = (handle_t)1; return now(); }
int cuCtxSetCurrent(handle_t context) { (void)context; return now(); }
int cuCtxDestroy_v2(handle_t context) { (void)context; return now(); }
int cuMemGetInfo_v2(size_t *left, size_t *total) { *left = 8000000000u, *total = 16000000000u; return now(); }
int cuMemAlloc_v2(uint64_t *out, size_t bytes) { *out = (uint64_t)(uintptr_t)calloc(1, bytes); return *out ? now() : 2; }
int cuMemHostAlloc(void **out, size_t bytes, unsigned flags) { (void)flags; *out = calloc(1, bytes); return *out ? now() : 2; }
int cuMemHostGetDevicePointer_v2(uint64_t *out, void *host, unsigned flags) { (void)flags; *out = (uint64_t)(uintptr_t)host; return now(); }
int cuMemFreeHost(void *host) { free(host); return now(); }
int cuMemFree_v2(uint64_t at) { free((void *)(uintptr_t)at); return now(); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, handle_t stream) {
    (void)stream;
    memcpy((void *)(uintptr_t)to, from, bytes);
    return now();
}
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) { memcpy(to, (void *)(uintptr_t)from, bytes); return now(); }
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, handle_t stream) {
    (void)stream;
    memcpy((void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes);
    return now();
}
int cuMemsetD32Async(uint64_t at, unsigned word, size_t count, handle_t stream) {
    (void)stream;
    for (size_t i = 0; i < count; i++) ((unsigned *)(uintptr_t)at)[i] = word;
    return now();
}
int cuModuleLoadData(handle_t *out, const void *image) { (void)image; *out = (handle_t)1; return now(); }
int cuModuleUnload(handle_t module) { (void)module; return now(); }
int cuModuleGetFunction(handle_t *out, handle_t module, const char *name) { (void)module, (void)name; *out = (handle_t)1; return now(); }
int cuFuncSetAttribute(handle_t function, int which, int value) { (void)function, (void)which, (void)value; return now(); }
int cuLaunchKernel(handle_t f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   handle_t stream, void **arguments, void **extra) {
    (void)f, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)shared, (void)stream, (void)arguments, (void)extra;
    launches++;
    return now();
}
int cuStreamCreate(handle_t *out, unsigned flags) { (void)flags; *out = (handle_t)1; return now(); }
int cuStreamSynchronize(handle_t stream) { (void)stream; return now(); }
int cuStreamDestroy_v2(handle_t stream) { (void)stream; return now(); }
int cuEventCreate(handle_t *out, unsigned flags) { (void)flags; *out = (handle_t)1; return now(); }
int cuEventRecord(handle_t event, handle_t stream) { (void)event, (void)stream; return now(); }
int cuEventSynchronize(handle_t event) { (void)event; return now(); }
int cuEventElapsedTime(float *out, handle_t from, handle_t to) { (void)from, (void)to; *out = 1; return now(); }
int cuEventDestroy_v2(handle_t event) { (void)event; return now(); }
/* As the real one: a name for what it knows, and `out` left alone for what it does not. */
int cuGetErrorName(int which, const char **out) {
    switch (which) {
    case 46: *out = "CUDA_ERROR_DEVICE_UNAVAILABLE"; return 0;
    case 100: *out = "CUDA_ERROR_NO_DEVICE"; return 0;
    case 214: *out = "CUDA_ERROR_ECC_UNCORRECTABLE"; return 0;
    case 700: *out = "CUDA_ERROR_ILLEGAL_ADDRESS"; return 0;
    case 719: *out = "CUDA_ERROR_LAUNCH_FAILED"; return 0;
    default: return 1;
    }
}
