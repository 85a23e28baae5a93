/* Run numbered tasks on several threads. */
#ifndef SBM_THREADS_H
#define SBM_THREADS_H

#include <stddef.h>
#include <stdint.h>

typedef void (*task_function)(const void *context, int64_t task, char *scratch);

/* Call function(context, i, scratch) for every i below tasks, on up to `threads` threads that take the next task when
 * they are done with one. Each thread owns `scratch_bytes` of 64-byte aligned memory. Returns a status. */
int parallel_tasks(int64_t tasks, int64_t threads, size_t scratch_bytes, task_function function, const void *context);

/* Threads that pay for `work` when one of them should have at least `unit` of it: waking one takes some 10 us. */
static inline int64_t worthwhile_threads(int64_t threads, int64_t work, int64_t unit) {
    return threads < 1 + work / unit ? threads : 1 + work / unit;
}

#endif
