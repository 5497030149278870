/* A pool of threads of our own.
 *
 * Why not OpenMP: its pool deadlocks in a child forked after first use (multiprocessing, pre-fork servers), its idle
 * threads spin for milliseconds on cores that belong to others, and it would become a dependency of everyone who
 * embeds this library, with a second or third copy of its runtime in the process. What operators need is much less:
 * run a few equal parts at once and wait for them.
 *
 * How it works
 * ------------
 * The caller runs part 0 and offers part i to worker i. There is no queue: one job runs at a time, under pool_lock, and
 * each worker has one word, its turn, that passes between it and the caller. A side that waits for its turn spins
 * first and then sleeps on a condition variable; it says so in the word itself, so that the other side makes a system
 * call only if it has to. Every change of the word both acquires and releases: what was written before a turn ended is
 * seen by the side whose turn comes.
 *
 * The caller, done with part 0, takes back and runs what no worker has begun. So a worker that is slow to wake (tens
 * of microseconds in a virtual machine), or whose processor is busy with something else, never makes a call slower
 * than it would be on one thread, but for the time it takes to ask.
 *
 * A second caller, or a nested call, finds the lock taken and runs its parts one after another. That cannot deadlock,
 * and it keeps a program with threads of its own from having more of them at work than it has processors. Results do
 * not depend on who runs a part. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "runtime.h"

enum {
    max_threads = 1024,       /* a call never uses more; their words are 128 KB of untouched memory */
    stack_bytes = 1024 * 1024 /* kernels need 16 KB; the rest is for sanitizers and large thread-local storage */
};

/* A worker that spins begins its part within 0.5 us. To wake one that sleeps takes the caller 12 us, and the worker as
 * long again (2-core virtual machine). So workers spin across the gaps between the calls of one program, and stop
 * before anybody else would miss the processor. The caller's own part has ended when it begins to wait, and the others
 * are of equal size: it waits long only if it shares processors. */
static const int64_t worker_spin_ns = 50 * 1000;
static const int64_t caller_spin_ns = 100 * 1000;

/* --------------------------------------------------------------------------------------------- one worker ---- */

/* Whose turn it is. The caller turns IDLE or ASLEEP into OFFERED or STOP, and may turn OFFERED back into IDLE; the
 * worker turns OFFERED into RUNNING, and RUNNING or AWAITED into IDLE. The side that waits turns IDLE into ASLEEP, or
 * RUNNING into AWAITED. */
enum {
    IDLE,    /* the worker waits for work */
    ASLEEP,  /* the same, and has to be woken */
    OFFERED, /* there is a part to run, and nobody runs it */
    RUNNING, /* the worker runs its part */
    AWAITED, /* the same, and the caller has to be woken when it ends */
    STOP     /* the worker ends */
};

struct worker {
    _Alignas(64) atomic_int turn; /* on a cache line of its own */
    int part;
    _Alignas(64) pthread_t thread;
    pthread_mutex_t lock; /* for the condition only; at most one side sleeps on it */
    pthread_cond_t condition;
};

/* All of these are written under pool_lock; workers read the job during their turn. */
static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static struct worker workers[max_threads]; /* [0] stays unused: part 0 is the caller's */
static int running;                        /* workers[1 .. running] have a thread */
static struct {
    void (*work)(void *context, int part, int parts);
    void *context;
    int parts;
    unsigned long float_mode;
} job;

/* This thread is a worker, or holds pool_lock: it must not wait for the lock. */
static _Thread_local int in_pool;

/* Threads that wait for pool_lock. Callers then stand back, or a program that makes call after call would hold up a
 * fork for as long as it likes: the lock is not fair. */
static atomic_int waiting;

static int64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void pause_processor(void)
{
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* yield does nothing on most cores */
#endif
}

/* Waits until the turn is no longer `turn`; past the deadline it says so by `sleeper` and sleeps. */
static void wait_while(struct worker *worker, int turn, int sleeper, int64_t deadline)
{
    for (int i = 1;; i++) {
        if (atomic_load_explicit(&worker->turn, memory_order_acquire) != turn)
            return;
        pause_processor();
        if (i % 32 != 0)
            continue;
        if (now_ns() >= deadline)
            break;
        sched_yield(); /* to the other side, if it waits for this very processor: else each call took all of the spin */
    }
    pthread_mutex_lock(&worker->lock);
    int expected = turn;
    if (atomic_compare_exchange_strong(&worker->turn, &expected, sleeper))
        while (atomic_load(&worker->turn) == sleeper)
            pthread_cond_wait(&worker->condition, &worker->lock);
    pthread_mutex_unlock(&worker->lock);
}

/* Sets the turn, and wakes the other side if it sleeps. */
static void hand_over(struct worker *worker, int turn, int sleeper)
{
    if (atomic_exchange(&worker->turn, turn) != sleeper)
        return;
    /* The sleeper set its word under the lock: once we have had the lock, it is inside pthread_cond_wait. Signalling
     * after the lock is released saves it from waking up only to wait for us. */
    pthread_mutex_lock(&worker->lock);
    pthread_mutex_unlock(&worker->lock);
    pthread_cond_signal(&worker->condition);
}

/* Both sides try to have an offered part: the worker to run it, the caller to take it back. */
static int take_offer(struct worker *worker, int turn)
{
    int offered = OFFERED;
    return atomic_compare_exchange_strong(&worker->turn, &offered, turn);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    in_pool = 1;
    for (;;) {
        wait_while(worker, IDLE, ASLEEP, now_ns() + worker_spin_ns);
        if (take_offer(worker, RUNNING)) {
            cr_set_float_mode(job.float_mode);
            job.work(job.context, worker->part, job.parts);
            hand_over(worker, IDLE, AWAITED);
        } else if (atomic_load(&worker->turn) == STOP)
            return NULL;
    }
}

/* ----------------------------------------------------------------------------------------------- the pool ---- */

/* Starts workers until `count` run, or as many as the system allows. */
static void start_workers(int count)
{
    /* The program's signal handlers run in the program's threads. Only what a fault raises in the thread itself is
     * let through: blocked, it would kill the process before a crash reporter could speak. */
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&blocked, faults[i]);

    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0)
        return;
    pthread_attr_setstacksize(&attributes, stack_bytes); /* the default: 128 KB to 1 GB */
    pthread_sigmask(SIG_SETMASK, &blocked, &before); /* a new thread inherits it */
    while (running < count) {
        struct worker *worker = &workers[running + 1];
        atomic_init(&worker->turn, IDLE);
        worker->part = running + 1;
        pthread_mutex_init(&worker->lock, NULL);
        pthread_cond_init(&worker->condition, NULL);
        if (pthread_create(&worker->thread, &attributes, worker_main, worker) != 0)
            break;
        running++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

/* Ends and joins workers until at most `count` run. They are idle: the caller holds the lock. */
static void stop_workers(int count)
{
    for (; running > count; running--) {
        struct worker *worker = &workers[running];
        hand_over(worker, STOP, ASLEEP);
        pthread_join(worker->thread, NULL);
        pthread_cond_destroy(&worker->condition);
        pthread_mutex_destroy(&worker->lock);
    }
}

/* Waits for a running job to end. */
static void lock_pool(void)
{
    atomic_fetch_add(&waiting, 1);
    pthread_mutex_lock(&pool_lock);
    atomic_fetch_sub(&waiting, 1);
    in_pool = 1;
}

static int try_lock_pool(void)
{
    if (atomic_load_explicit(&waiting, memory_order_relaxed) != 0 || pthread_mutex_trylock(&pool_lock) != 0)
        return 0;
    in_pool = 1;
    return 1;
}

static void unlock_pool(void)
{
    in_pool = 0;
    pthread_mutex_unlock(&pool_lock);
}

void cr_parallel(int parts, void (*work)(void *context, int part, int parts), void *context)
{
    assert(parts >= 1);
    if (parts == 1 || !try_lock_pool()) {
        for (int part = 0; part < parts; part++)
            work(context, part, parts);
        return;
    }
    if (running < parts - 1) {
        int allowed = cr_get_num_threads(); /* less than parts if it was changed since the work was cut */
        start_workers(parts < allowed ? parts - 1 : allowed - 1);
    }
    int helpers = running < parts - 1 ? running : parts - 1;
    job.work = work;
    job.context = context;
    job.parts = parts;
    job.float_mode = cr_float_mode();
    for (int i = 1; i <= helpers; i++)
        hand_over(&workers[i], OFFERED, ASLEEP);
    work(context, 0, parts);
    for (int part = 1; part < parts; part++)
        if (part > helpers || take_offer(&workers[part], IDLE))
            work(context, part, parts);
    int64_t deadline = now_ns() + caller_spin_ns;
    for (int i = 1; i <= helpers; i++)
        wait_while(&workers[i], RUNNING, AWAITED, deadline);
    unlock_pool();
}

/* ------------------------------------------------------------------------------------------- fork and exit ---- */

/* A fork copies the memory of all threads but only the thread that forks. With the lock held no job runs, so the child
 * finds the pool at rest, forgets the workers it does not have, and starts its own when it needs them. A thread that
 * forks in the middle of a part (a crash reporter, in a signal handler) cannot wait for that part: its child must not
 * return into it, and whatever it calls runs serially. */
static _Thread_local int locked_for_fork;

static void before_fork(void)
{
    locked_for_fork = !in_pool;
    if (locked_for_fork)
        lock_pool();
}

static void after_fork_in_parent(void)
{
    if (locked_for_fork)
        unlock_pool();
}

static void after_fork_in_child(void)
{
    running = 0; /* start_workers initialises their locks anew, in whatever state they were copied */
    atomic_store(&waiting, 0);
    after_fork_in_parent();
}

__attribute__((constructor)) static void watch_forks(void)
{
    if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0)
        atomic_fetch_add(&waiting, 1); /* no memory: a pool a fork could break is never started */
}

/* At exit, or before dlclose takes the code away from under the workers. `waiting` stays raised: whoever calls later,
 * from a thread that outlives main, runs serially. */
__attribute__((destructor)) static void close_pool(void)
{
    if (in_pool)
        return; /* exit was called inside a part */
    atomic_fetch_add(&waiting, 1);
    lock_pool();
    stop_workers(0);
    unlock_pool();
}

/* --------------------------------------------------------------------------------------- how many threads ---- */

static atomic_int num_threads; /* 0: nobody asked yet */

/* The count an environment variable gives, or 0. OMP_NUM_THREADS may be a list, one count per nesting level. */
static int environment_count(const char *name)
{
    const char *text = getenv(name);
    if (text == NULL)
        return 0;
    char *end;
    long count = strtol(text, &end, 10); /* out of range: LONG_MAX */
    if (end == text || (*end != '\0' && *end != ',') || count < 1)
        return 0;
    return count < max_threads ? (int)count : max_threads;
}

/* The index-th number of a file of the kernel; 0 if there is none ("max", "-1": no limit). */
static int64_t kernel_number(const char *path, int index)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    int64_t numbers[2] = {0, 0};
    int count = fscanf(file, "%" SCNd64 "%" SCNd64, &numbers[0], &numbers[1]);
    fclose(file);
    return index < count && numbers[index] > 0 ? numbers[index] : 0;
}

/* The processors' worth of time the cgroup grants, rounded up. A container sees its own cgroup at the root. */
static int64_t cgroup_processors(void)
{
    int64_t quota = kernel_number("/sys/fs/cgroup/cpu.max", 0);
    int64_t period = kernel_number("/sys/fs/cgroup/cpu.max", 1);
    if (quota == 0) {
        quota = kernel_number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", 0);
        period = kernel_number("/sys/fs/cgroup/cpu/cpu.cfs_period_us", 0);
    }
    return quota > 0 && period > 0 ? (quota - 1) / period + 1 : INT64_MAX;
}

static int usable_processors(void)
{
    int64_t processors = sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
        processors = CPU_COUNT(&allowed);
#endif
    int64_t granted = cgroup_processors();
    if (granted < processors)
        processors = granted;
    return processors < 1 ? 1 : processors < max_threads ? (int)processors : max_threads;
}

CR_VISIBLE int cr_get_num_threads(void)
{
    int count = atomic_load(&num_threads);
    if (count != 0)
        return count;
    int initial = environment_count("CONVRNN_NUM_THREADS");
    if (initial == 0)
        initial = environment_count("OMP_NUM_THREADS");
    if (initial == 0)
        initial = usable_processors();
    return atomic_compare_exchange_strong(&num_threads, &count, initial) ? initial : count;
}

CR_VISIBLE enum cr_status cr_set_num_threads(int64_t n)
{
    if (n < 1)
        return cr_fail(CR_INVALID_ARGUMENT, "the number of threads is %" PRId64 " but must be at least 1", n);
    atomic_store(&num_threads, n < max_threads ? (int)n : max_threads);
    if (in_pool)
        return CR_OK; /* inside a part: the pool cannot shrink under itself */
    lock_pool();
    stop_workers(cr_get_num_threads() - 1); /* growing is left to the first call that needs it */
    unlock_pool();
    return CR_OK;
}

int cr_parts(double operations)
{
    /* 1.5e6 multiply-adds take 26 us of one core at 58e9 a second. Two parts save nearly half of that if the worker
     * spins, as it does between the layers of a network, and lose 10 to 16 us if it sleeps, as before the first; work
     * has to reach 45 to 90 us before waking a sleeper pays. Below 26 us there is less to save than to lose. */
    const double operations_per_part = 1.5e6;
    if (!(operations >= operations_per_part)) /* so that a NaN, too, is one part */
        return 1;
    int threads = cr_get_num_threads();
    double parts = 1 + operations / operations_per_part;
    return parts < threads ? (int)parts : threads;
}
