/* Threads: torch's own OpenMP pool where it can be had, plain threads elsewhere.
 *
 * torch's workers spin for a while after each of its parallel loops. A second pool would fight with them for the
 * cores, so the kernels run on the very same pool: Python looks GOMP_parallel up through torch's library (every
 * OpenMP runtime that torch ships on Linux has it) and hands its address to sbm_use_openmp. Without it, or in the
 * child of a fork, where an OpenMP pool waits for ever for the threads of its parent, threads are started for the
 * call and joined at its end.
 *
 * Which thread runs a task never enters a result.
 */
#define _POSIX_C_SOURCE 200809L
#include "threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "api.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

typedef void (*openmp_parallel)(void (*)(void *), void *, unsigned, unsigned);

static openmp_parallel torch_openmp;
static pid_t openmp_owner;

/* Use the OpenMP runtime with this GOMP_parallel in the calling process; NULL for plain threads. */
void sbm_use_openmp(void *gomp_parallel) {
    torch_openmp = (openmp_parallel)gomp_parallel;
    openmp_owner = getpid();
}

typedef struct {
    task_function function;
    const void *context;
    int64_t tasks;
    size_t scratch_bytes;
    atomic_llong next;
    atomic_int status;
} job;

/* Decaying states end up as denormal numbers, which some processors handle a hundred times slower: flush them. */
static unsigned long flush_denormals(void) {
#if defined(__x86_64__)
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* flush to zero, denormals are zero */
    return before;
#elif defined(__aarch64__)
    unsigned long before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" ::"r"(before | (1ul << 24)));
    return before;
#else
    return 0;
#endif
}

static void restore_denormals(unsigned long before) {
#if defined(__x86_64__)
    _mm_setcsr((unsigned)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"(before));
#else
    (void)before;
#endif
}

static void work(void *argument) {
    job *j = argument;
    int64_t task = atomic_fetch_add(&j->next, 1);
    if (task >= j->tasks) return;
    void *scratch = NULL;
    if (posix_memalign(&scratch, 64, j->scratch_bytes + 64) != 0) {
        atomic_store(&j->status, STATUS_NO_MEMORY);
        return;
    }
    unsigned long mode = flush_denormals();
    for (; task < j->tasks; task = atomic_fetch_add(&j->next, 1)) j->function(j->context, task, scratch);
    restore_denormals(mode);
    free(scratch);
}

static void *thread_main(void *argument) {
    work(argument);
    return NULL;
}

enum { MAX_STARTED = 255 };

int parallel_tasks(int64_t tasks, int64_t threads, size_t scratch_bytes, task_function function, const void *context) {
    job j = {.function = function, .context = context, .tasks = tasks, .scratch_bytes = scratch_bytes};
    atomic_init(&j.next, 0);
    atomic_init(&j.status, STATUS_OK);
    if (threads > tasks) threads = tasks;
    if (threads <= 1) {
        work(&j);
    } else if (torch_openmp && openmp_owner == getpid()) {
        torch_openmp(work, &j, (unsigned)threads, 0);
    } else {
        pthread_t started[MAX_STARTED];
        int count = 0;
        if (threads > MAX_STARTED) threads = MAX_STARTED;
        while (count < threads - 1 && pthread_create(&started[count], NULL, thread_main, &j) == 0) count++;
        work(&j);
        while (count > 0) pthread_join(started[--count], NULL);
    }
    /* A thread without memory leaves its tasks to the others, but its first one is lost. */
    return atomic_load(&j.status);
}
