/* Stress test of the runtime: status, workspace, instruction sets and, above all, threads. No Python, so that it runs
 * under any sanitizer. Prints what failed and returns 1; returns 0 and one line if nothing did.
 *
 *     cc -std=c11 -Icsrc tests/c/test_runtime.c csrc/{threads,memory,status,dispatch}.c ISA... -lpthread -lm
 *
 * where ISA... are objects of csrc/isa/. What is read once per process (environment, affinity) is tested in a process
 * of its own: the program runs itself, with one argument that says what to do. A hang ends in SIGALRM. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <fenv.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "kernels.h"
#include "runtime.h"

#if defined(__has_feature) /* clang */
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

enum { most = 4 /* threads in these tests */, patience = 60 /* seconds */ };

static atomic_int failures;
static const char *program;

static void check(int holds, const char *claim, int line)
{
    if (holds)
        return;
    atomic_fetch_add(&failures, 1);
    fprintf(stderr, "tests/c/test_runtime.c:%d: not true: %s\n", line, claim);
}
#define CHECK(claim) check((claim) != 0, #claim, __LINE__)

/* TSan would sleep a second at the end of every child. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "atexit_sleep_ms=0";
}

static void sleep_ms(int ms)
{
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

/* ------------------------------------------------------------------------------------- status, workspace ---- */

static void test_status(void)
{
    CHECK(strcmp(cr_version(), CR_VERSION) == 0);
    CHECK(strcmp(cr_status_name(CR_OK), "CR_OK") == 0);
    CHECK(strcmp(cr_status_name(CR_INVALID_ARGUMENT), "CR_INVALID_ARGUMENT") == 0);
    CHECK(strcmp(cr_status_name(CR_OVERFLOW), "CR_OVERFLOW") == 0);
    CHECK(strcmp(cr_status_name(CR_OUT_OF_MEMORY), "CR_OUT_OF_MEMORY") == 0);
    CHECK(cr_status_name((enum cr_status)99) != NULL);
}

static pthread_barrier_t both; /* for two threads that go in step */

/* Two threads fail at once: each has to find its own words. */
static void *fail_with_words(void *argument)
{
    const char *words = argument;
    CHECK(strcmp(cr_error_message(), "") == 0);
    pthread_barrier_wait(&both);
    CHECK(cr_fail(CR_OVERFLOW, "%s, %d", words, 7) == CR_OVERFLOW);
    pthread_barrier_wait(&both);
    CHECK(strncmp(cr_error_message(), words, strlen(words)) == 0);
    CHECK(strcmp(cr_error_message() + strlen(words), ", 7") == 0);
    return NULL;
}

static void test_words_belong_to_a_thread(void)
{
    pthread_t threads[2];
    static char words[2][16] = {"one thread", "the other"};
    pthread_barrier_init(&both, NULL, 2);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, fail_with_words, words[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&both);

    char long_words[1000];
    memset(long_words, 'w', sizeof long_words - 1);
    long_words[sizeof long_words - 1] = '\0';
    cr_fail(CR_OVERFLOW, "%s", long_words);
    size_t kept = strlen(cr_error_message());
    CHECK(kept >= 200 && kept < sizeof long_words - 1 && strncmp(cr_error_message(), long_words, kept) == 0);
}

static int live, budget;

static void *allocate_from_budget(size_t size)
{
    if (budget == 0)
        return NULL;
    budget--;
    live++;
    return malloc(size);
}

static void release_to_budget(void *block)
{
    live--;
    free(block);
}

static void test_allocator_that_fails(void)
{
    cr_set_allocator(allocate_from_budget, release_to_budget);
    for (int k = 0; k < 8; k++) {
        void *blocks[8] = {NULL};
        budget = k;
        for (int i = 0; i < 8; i++) {
            blocks[i] = cr_allocate(100 * i);
            CHECK((blocks[i] != NULL) == (i < k));
            CHECK((uintptr_t)blocks[i] % 64 == 0);
            if (blocks[i] != NULL)
                memset(blocks[i], 0xa5, (size_t)(100 * i));
        }
        CHECK(live == k);
        CHECK(strcmp(cr_error_message(), "700 bytes of workspace could not be allocated") == 0);
        for (int i = 0; i < 8; i++)
            cr_release(blocks[i]);
        CHECK(live == 0);
    }
    budget = 1;
    static const int64_t absurd[] = {-1, INT64_MIN, INT64_MAX, INT64_MAX - 64};
    for (size_t i = 0; i < sizeof absurd / sizeof *absurd; i++)
        CHECK(cr_allocate(absurd[i]) == NULL);
    CHECK(budget == 1); /* not even asked for */
    cr_set_allocator(NULL, NULL);
    void *block = cr_allocate(1);
    CHECK(block != NULL && budget == 1);
    cr_release(block);
    CHECK(live == 0);
}

/* An allocator that is no better aligned than malloc promises, at each place it may return within a cache line. */
static _Alignas(64) char arena[512];
static int arena_offset;
static void *arena_released;

static void *allocate_in_arena(size_t size)
{
    CHECK((size_t)arena_offset + size <= sizeof arena);
    return arena + arena_offset;
}

static void release_in_arena(void *block)
{
    arena_released = block;
}

static void test_alignment(void)
{
    cr_set_allocator(allocate_in_arena, release_in_arena);
    for (arena_offset = 0; arena_offset < 64; arena_offset += 16) {
        char *block = cr_allocate(256);
        CHECK((uintptr_t)block % 64 == 0 && block >= arena + arena_offset && block + 256 <= arena + sizeof arena);
        memset(block, 0, 256);
        cr_release(block);
        CHECK(arena_released == arena + arena_offset);
    }
    cr_set_allocator(NULL, NULL);
}

static void test_multiply_add(void)
{
    int64_t r = 0;
    CHECK(!cr_multiply_add(3, 4, 5, &r) && r == 17);
    CHECK(!cr_multiply_add(INT64_MAX, 1, 0, &r) && r == INT64_MAX);
    CHECK(!cr_multiply_add(-2, 3, 1, &r) && r == -5);
    CHECK(!cr_multiply_add(INT64_C(3037000499), INT64_C(3037000499), 0, &r) && r == INT64_C(9223372030926249001));
    CHECK(cr_multiply_add(INT64_C(3037000500), INT64_C(3037000500), 0, &r));
    CHECK(cr_multiply_add(INT64_MAX, 1, 1, &r));
    CHECK(cr_multiply_add(INT64_MIN, -1, 0, &r));
    CHECK(cr_multiply_add(INT64_C(1) << 62, 2, -1, &r));
}

/* ------------------------------------------------------------------------------------------------- a job ---- */

/* Nothing in it is atomic: the pool has to order the accesses, or TSan says so. */
struct job {
    int input;
    int runs[most];
    int output[most];
    pthread_t thread[most];
};

static void job_part(void *context, int part, int parts)
{
    struct job *job = context;
    job->runs[part] += parts;
    job->output[part] = 10 * job->input + part;
    job->thread[part] = pthread_self();
    for (volatile int i = 0; i < 1000; i++)
        ; /* about a microsecond, so that workers come in time for some parts and late for others */
}

/* Whether the job ran rightly: its first part in this thread, each part once, and no other. */
static int ran_right(const struct job *job, int parts)
{
    int right = pthread_equal(job->thread[0], pthread_self());
    for (int i = 0; i < most; i++) {
        right = right && job->runs[i] == (i < parts ? parts : 0);
        right = right && job->output[i] == (i < parts ? 10 * job->input + i : 0);
    }
    return right;
}

/* On how many threads the parts ran. */
static int threads_of(const struct job *job, int parts)
{
    int threads = 0;
    for (int i = 0; i < parts; i++) {
        int first = 0;
        while (!pthread_equal(job->thread[first], job->thread[i]))
            first++;
        threads += first == i;
    }
    return threads;
}

/* Runs a job and checks it. Which thread runs a part is left to chance: the caller takes what no worker has begun. */
static int run_job(int parts, int input)
{
    struct job job = {.input = input};
    cr_parallel(parts, job_part, &job);
    CHECK(ran_right(&job, parts));
    return threads_of(&job, parts);
}

/* A job whose first part gives the others time to begin: all that can run at once, do. */
struct patient_job {
    struct job job;
    int at_once; /* parts to wait for, the first included */
    atomic_int begun;
};

static void patient_part(void *context, int part, int parts)
{
    struct patient_job *patient = context;
    atomic_fetch_add(&patient->begun, 1);
    job_part(&patient->job, part, parts);
    for (int i = 0; i < 5000 && part == 0 && atomic_load(&patient->begun) < patient->at_once; i++)
        sleep_ms(1);
}

/* Runs such a job and checks it; on how many threads it ran. */
static int run_patient_job(int parts, int at_once)
{
    struct patient_job patient = {.job = {.input = at_once}, .at_once = at_once};
    cr_parallel(parts, patient_part, &patient);
    CHECK(ran_right(&patient.job, parts));
    return threads_of(&patient.job, parts);
}

static void test_every_part_runs_once(void)
{
    for (int threads = 1; threads <= most; threads++) {
        CHECK(cr_set_num_threads(threads) == CR_OK && cr_get_num_threads() == threads);
        for (int parts = 1; parts <= most; parts++) {
            int at_once = parts < threads ? parts : threads;
            CHECK(run_patient_job(parts, at_once) == at_once);
        }
    }
}

static void test_rapid_calls(void)
{
    cr_set_num_threads(most);
    for (int i = 0; i < 10000; i++)
        run_job(1 + i % most, i);
    cr_set_num_threads(2);
    for (int i = 0; i < 200; i++) { /* pauses around the time the two sides go to sleep */
        struct timespec pause = {.tv_nsec = i * 1000L};
        nanosleep(&pause, NULL);
        run_job(2, i);
    }
}

static void slow_part(void *context, int part, int parts)
{
    patient_part(context, part, parts);
    if (part > 0)
        sleep_ms(2); /* the caller waits past its spin */
}

static void test_caller_sleeps(void)
{
    cr_set_num_threads(most);
    for (int i = 0; i < 20; i++) {
        struct patient_job patient = {.job = {.input = i}, .at_once = most};
        cr_parallel(most, slow_part, &patient);
        CHECK(ran_right(&patient.job, most));
    }
}

static atomic_int stop, calling;

static void *call_until_stopped(void *argument)
{
    (void)argument;
    atomic_fetch_add(&calling, 1);
    for (int i = 0; !atomic_load(&stop); i++)
        run_job(1 + i % most, i);
    return NULL;
}

/* Returns when all of them are at it. */
static void start_callers(pthread_t *callers, int count)
{
    atomic_store(&stop, 0);
    atomic_store(&calling, 0);
    for (int i = 0; i < count; i++)
        pthread_create(&callers[i], NULL, call_until_stopped, NULL);
    while (atomic_load(&calling) < count)
        sleep_ms(1);
}

static void stop_callers(pthread_t *callers, int count)
{
    atomic_store(&stop, 1);
    for (int i = 0; i < count; i++)
        pthread_join(callers[i], NULL);
}

static void test_callers_at_once(void)
{
    pthread_t callers[8];
    cr_set_num_threads(most);
    start_callers(callers, 8);
    sleep_ms(200);
    stop_callers(callers, 8);
    CHECK(run_patient_job(most, most) == most); /* and then all workers are back */
}

static void nested_part(void *context, int part, int parts)
{
    int *threads = context;
    threads[part] = run_job(parts, part);
    cr_set_num_threads(most); /* must not wait for the job it is in */
}

static void test_nested_calls(void)
{
    cr_set_num_threads(most);
    for (int i = 0; i < 100; i++) {
        int threads[most] = {0};
        cr_parallel(most, nested_part, threads);
        for (int part = 0; part < most; part++)
            CHECK(threads[part] == 1); /* in the thread of the outer part */
    }
}

static void test_changing_threads_while_others_call(void)
{
    pthread_t callers[3];
    start_callers(callers, 3);
    for (int i = 0; i < 200; i++) {
        CHECK(cr_set_num_threads(1 + i % most) == CR_OK);
        sleep_ms(i % 3);
    }
    stop_callers(callers, 3);
}

/* The number of threads of this process, or 0 where the system does not tell. */
static int count_threads(void)
{
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    if (tasks == NULL)
        return 0;
    for (struct dirent *entry = readdir(tasks); entry != NULL; entry = readdir(tasks))
        count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

/* A joined thread stands in /proc a moment longer. */
static int threads_become(int expected)
{
    for (int i = 0; i < 1000 && count_threads() != expected; i++)
        sleep_ms(1);
    return count_threads() == expected;
}

static void test_workers_come_and_go(void)
{
    cr_set_num_threads(1);
    sleep_ms(20);
    int alone = count_threads();
    if (alone == 0)
        return;
    cr_set_num_threads(most);
    CHECK(count_threads() == alone); /* started by the first call that needs them */
    run_job(2, 0);
    CHECK(count_threads() == alone + 1);
    run_job(most, 0);
    CHECK(count_threads() == alone + most - 1);
    cr_set_num_threads(2);
    CHECK(threads_become(alone + 1));
    CHECK(run_patient_job(most, 2) == 2); /* work that was cut before the change */
    cr_set_num_threads(1);
    CHECK(threads_become(alone));
}

static void test_number_of_parts(void)
{
    cr_set_num_threads(3);
    CHECK(cr_parts(0) == 1 && cr_parts(-1e9) == 1 && cr_parts(1e5) == 1 && cr_parts((double)NAN) == 1);
    CHECK(cr_parts(1e9) == 3 && cr_parts(1e300) == 3 && cr_parts((double)INFINITY) == 3);
    int previous = 1;
    for (double operations = 1e5; operations < 1e8; operations *= 1.1) {
        int parts = cr_parts(operations);
        CHECK(parts >= previous && parts <= 3);
        previous = parts;
    }
    CHECK(cr_set_num_threads(0) == CR_INVALID_ARGUMENT && strstr(cr_error_message(), "is 0") != NULL);
    CHECK(cr_set_num_threads(INT64_MIN) == CR_INVALID_ARGUMENT);
    CHECK(cr_get_num_threads() == 3);
    CHECK(cr_set_num_threads(INT64_MAX) == CR_OK && cr_get_num_threads() >= 64);
    cr_set_num_threads(1);
    CHECK(cr_parts(1e9) == 1);
}

static void test_idle_workers_sleep(void)
{
    cr_set_num_threads(most);
    run_job(most, 0);
    sleep_ms(5);
    clock_t before = clock(); /* of all threads */
    sleep_ms(100);
    CHECK(clock() - before < CLOCKS_PER_SEC / 100);
}

/* ------------------------------------------------------------------ what a thread has: signals, modes ---- */

struct signal_masks {
    struct patient_job patient;
    sigset_t of_part[2];
};

static void signal_part(void *context, int part, int parts)
{
    struct signal_masks *masks = context;
    pthread_sigmask(SIG_BLOCK, NULL, &masks->of_part[part]);
    patient_part(&masks->patient, part, parts);
}

static void test_signals_go_to_the_program(void)
{
    struct signal_masks masks = {.patient = {.at_once = 2}};
    cr_set_num_threads(1);
    cr_set_num_threads(2); /* with a new worker */
    cr_parallel(2, signal_part, &masks);
    static const int signals[] = {SIGINT, SIGTERM, SIGALRM, SIGCHLD, SIGUSR1, SIGPROF};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        CHECK(!sigismember(&masks.of_part[0], signals[i]) && sigismember(&masks.of_part[1], signals[i]));
    CHECK(!sigismember(&masks.of_part[1], SIGSEGV));
}

struct arithmetic {
    double third;
    float half_of_least; /* zero if subnormals are flushed */
};

/* Compilers take arithmetic for independent of modes; volatile on both sides keeps it between calls that set them. */
static struct arithmetic compute(void)
{
    volatile double one = 1, three = 3;
    volatile float least = FLT_MIN, two = 2;
    volatile struct arithmetic result = {.third = one / three, .half_of_least = least / two};
    return result;
}

struct arithmetics {
    struct patient_job patient;
    struct arithmetic of_part[most];
};

static void arithmetic_part(void *context, int part, int parts)
{
    struct arithmetics *results = context;
    results->of_part[part] = compute();
    patient_part(&results->patient, part, parts);
    if (part > 0)
        fesetround(FE_DOWNWARD); /* the worker's own: it must not last until the next call */
}

static void check_mode_of_caller_holds(void)
{
    struct arithmetic expected = compute();
    struct arithmetics results = {.patient = {.at_once = most}};
    cr_parallel(most, arithmetic_part, &results);
    struct arithmetic after = compute();
    CHECK(threads_of(&results.patient.job, most) == most);
    for (int part = 0; part < most; part++)
        CHECK(results.of_part[part].third == expected.third &&
              results.of_part[part].half_of_least == expected.half_of_least);
    CHECK(after.third == expected.third && after.half_of_least == expected.half_of_least);
}

static void test_mode_of_caller_holds(void)
{
    cr_set_num_threads(most);
    check_mode_of_caller_holds();
    struct arithmetic usual = compute();
    fesetround(FE_UPWARD);
    CHECK(compute().third > usual.third);
    check_mode_of_caller_holds();
    fesetround(FE_TONEAREST);
    check_mode_of_caller_holds();
#if defined(__SSE2__)
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040); /* flush to zero, denormals are zero */
    CHECK(compute().half_of_least == 0);
    check_mode_of_caller_holds();
    _mm_setcsr(mode);
#endif
    CHECK(compute().half_of_least == usual.half_of_least && usual.half_of_least != 0);
    check_mode_of_caller_holds();
}

/* --------------------------------------------------------------------------------------------------- fork ---- */

static int pool_threads = most;

/* Runs body in a child and checks that it ends well. */
static void check_child(void (*body)(void))
{
    pid_t child = fork();
    if (child == 0) {
        failures = 0;
        alarm(patience / 2);
#if defined(__SANITIZE_THREAD__)
        pool_threads = 1; /* TSan does not support threads that start in the child of a program with threads */
#endif
        body();
        exit(failures != 0); /* with the destructor of the pool */
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void use_pool(void)
{
    cr_set_num_threads(pool_threads);
    for (int i = 0; i < 20; i++) {
        run_job(most, i);
        CHECK(run_patient_job(most, pool_threads) == pool_threads);
    }
}

static void use_pool_and_fork(void)
{
    check_child(use_pool); /* before any use in this process */
    use_pool();
    check_child(use_pool);
    use_pool();
}

static void leave(void)
{
}

static void test_fork(void)
{
    use_pool();
    check_child(use_pool_and_fork);
    check_child(leave);
    use_pool();
}

static void *fork_10_times(void *argument)
{
    (void)argument;
    pthread_barrier_wait(&both); /* no thread begins or ends while another forks: ASan's locks do not survive that */
    for (int i = 0; i < 10; i++)
        check_child(i % 5 == 0 ? use_pool_and_fork : use_pool);
    pthread_barrier_wait(&both);
    return NULL;
}

static void test_fork_while_others_call(void)
{
    pthread_t callers[2], forkers[2];
    cr_set_num_threads(most);
    start_callers(callers, 2);
    pthread_barrier_init(&both, NULL, 2);
    for (int i = 0; i < 2; i++)
        pthread_create(&forkers[i], NULL, fork_10_times, NULL);
    for (int i = 0; i < 2; i++)
        pthread_join(forkers[i], NULL);
    pthread_barrier_destroy(&both);
    stop_callers(callers, 2);
    use_pool();
}

static void forking_part(void *context, int part, int parts)
{
    patient_part(context, part, parts);
    pid_t child = fork();
    if (child == 0) {
        failures = 0;
        alarm(patience / 2);
        CHECK(run_job(parts, 1) == 1); /* serially */
        _exit(failures != 0);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_fork_inside_a_part(void)
{
    struct patient_job patient = {.at_once = 2};
    cr_set_num_threads(2);
    cr_parallel(2, forking_part, &patient);
    CHECK(threads_of(&patient.job, 2) == 2);
    use_pool();
}

/* ----------------------------------------------------------------------- instruction sets, other processes ---- */

static void test_instruction_sets(void)
{
    const char *const *names = NULL;
    int count = cr_available_isas(&names);
    const char *initial = cr_isa();
    CHECK(count >= 1 && strcmp(names[0], "generic") == 0);
    for (int i = 0; i < count; i++) {
        CHECK(cr_set_isa(names[i]) == CR_OK && strcmp(cr_isa(), names[i]) == 0);
        CHECK(cr_kernels(CR_FLOAT32) != NULL && cr_kernels(CR_FLOAT32) != cr_kernels(CR_FLOAT64));
        CHECK(cr_kernels(CR_FLOAT32)->size == 4 && cr_kernels(CR_FLOAT64)->size == 8);
    }
    CHECK(cr_set_isa("mmx") == CR_INVALID_ARGUMENT && strstr(cr_error_message(), "'mmx'") != NULL);
    CHECK(strcmp(cr_isa(), names[count - 1]) == 0);
    CHECK(cr_set_isa(initial) == CR_OK);
}

/* Runs this program with settings (NAME=value ...) and a task for run_task; what it printed, all of it. */
static const char *output_of(const char *settings, const char *task)
{
    static char output[1000];
    char command[1000];
    snprintf(command, sizeof command, "env -u CONVRNN_NUM_THREADS -u OMP_NUM_THREADS -u CONVRNN_ISA %s '%s' %s 2>&1",
             settings, program, task);
    FILE *pipe = popen(command, "r");
    size_t length = pipe != NULL ? fread(output, 1, sizeof output - 1, pipe) : 0;
    CHECK(pipe != NULL && pclose(pipe) == 0);
    output[length] = '\0';
    return output;
}

static void test_chosen_instruction_set(void)
{
    const char *const *names = NULL;
    int count = cr_available_isas(&names);
    const char *best = names[count - 1];
    char expected[200];
    CHECK(strcmp(output_of("CONVRNN_ISA=generic", "isa"), "generic\n") == 0);
    snprintf(expected, sizeof expected, "%s\n", best);
    CHECK(strcmp(output_of("", "isa"), expected) == 0);
    CHECK(strcmp(output_of("CONVRNN_ISA=", "isa"), expected) == 0);
    snprintf(expected, sizeof expected,
             "convrnn: CONVRNN_ISA=mmx is unknown or cannot run on this processor; using %s\n%s\n", best, best);
    CHECK(strcmp(output_of("CONVRNN_ISA=mmx", "isa"), expected) == 0);
}

static void test_initial_number_of_threads(void)
{
    static const struct {
        const char *settings;
        int expected;
    } cases[] = {
        {"CONVRNN_NUM_THREADS=3", 3},
        {"CONVRNN_NUM_THREADS=3 OMP_NUM_THREADS=5", 3},
        {"OMP_NUM_THREADS=5", 5},
        {"OMP_NUM_THREADS=4,2", 4},
        {"CONVRNN_NUM_THREADS=0 OMP_NUM_THREADS=5", 5},
        {"CONVRNN_NUM_THREADS=many OMP_NUM_THREADS=5", 5},
        {"CONVRNN_NUM_THREADS=3x OMP_NUM_THREADS=5", 5},
        {"CONVRNN_NUM_THREADS= OMP_NUM_THREADS=5", 5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK(atoi(output_of(cases[i].settings, "threads")) == cases[i].expected);
    int usual = atoi(output_of("", "threads"));
    CHECK(usual >= 1 && usual <= sysconf(_SC_NPROCESSORS_ONLN));
    CHECK(atoi(output_of("CONVRNN_NUM_THREADS=-1 OMP_NUM_THREADS=none", "threads")) == usual);
#if defined(__linux__)
    CHECK(atoi(output_of("", "threads-of-one-processor")) == 1);
#endif
}

static void test_without_threads_to_be_had(void)
{
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they need memory too */
    CHECK(strcmp(output_of("CONVRNN_NUM_THREADS=4", "starve"), "") == 0);
#endif
}

static void test_exit_while_others_call(void)
{
    for (int i = 0; i < 5; i++)
        CHECK(strcmp(output_of("CONVRNN_NUM_THREADS=4", "exit"), "") == 0);
}

/* The other side of output_of. */
static int run_task(const char *task)
{
    if (strcmp(task, "isa") == 0)
        puts((cr_isa(), cr_isa())); /* the words about a bad CONVRNN_ISA come once */
    if (strcmp(task, "threads") == 0)
        printf("%d\n", cr_get_num_threads());
    if (strcmp(task, "exit") == 0) {
        pthread_t callers[3];
        start_callers(callers, 3);
        sleep_ms(20);
    }
#if defined(__linux__)
    if (strcmp(task, "threads-of-one-processor") == 0) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET((size_t)sched_getcpu(), &one);
        CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
        printf("%d\n", cr_get_num_threads());
    }
    if (strcmp(task, "starve") == 0) {
        struct rlimit plenty, nothing;
        getrlimit(RLIMIT_AS, &plenty);
        nothing = plenty;
        nothing.rlim_cur = 1; /* no address space for the stack of a thread */
        setrlimit(RLIMIT_AS, &nothing);
        CHECK(cr_get_num_threads() == 4 && run_job(4, 1) == 1);
        CHECK(cr_allocate(INT64_C(1) << 30) == NULL);
        setrlimit(RLIMIT_AS, &plenty);
        CHECK(count_threads() == 1);
        CHECK(run_patient_job(4, 4) == 4); /* and tries again */
    }
#endif
    return failures != 0;
}

int main(int count, char **arguments)
{
    program = arguments[0];
    alarm(patience);
    if (count > 1)
        return run_task(arguments[1]);
    test_status();
    test_words_belong_to_a_thread();
    test_allocator_that_fails();
    test_alignment();
    test_multiply_add();
    test_every_part_runs_once();
    test_rapid_calls();
    test_caller_sleeps();
    test_callers_at_once();
    test_nested_calls();
    test_changing_threads_while_others_call();
    test_workers_come_and_go();
    test_number_of_parts();
    test_idle_workers_sleep();
    test_signals_go_to_the_program();
    test_mode_of_caller_holds();
    test_fork();
    test_fork_while_others_call();
    test_fork_inside_a_part();
    test_instruction_sets();
    test_chosen_instruction_set();
    test_initial_number_of_threads();
    test_without_threads_to_be_had();
    test_exit_while_others_call();
    if (failures == 0)
        puts("runtime: all tests passed");
    return failures != 0;
}
