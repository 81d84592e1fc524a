/* Hides instruction sets from a program and all that it starts: their cpuid says less. Linux on x86-64, see
 * older_processor.py. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define BIT(n) (1u << (n))

static int sse; /* hide AVX and AVX2 as well */

static long let_cpuid_fault(int yes) {
    return syscall(SYS_arch_prctl, 0x1012 /* ARCH_SET_CPUID */, (unsigned long)!yes);
}

static void answer(int number, siginfo_t *info, void *context) {
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (memcmp((const void *)registers[REG_RIP], "\x0f\xa2", 2)) { /* no cpuid: a fault like any other */
        signal(number, SIG_DFL);
        return;
    }
    uint32_t leaf = registers[REG_RAX], part = registers[REG_RCX], a, b, c, d;
    let_cpuid_fault(0);
    __cpuid_count(leaf, part, a, b, c, d);
    let_cpuid_fault(1);
    if (leaf == 7 && part == 0) {
        b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)); /* AVX-512 */
        c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));                                 /* its VBMI, VNNI, ... */
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));              /* and FP16; AMX */
        if (sse) {
            b &= ~(BIT(3) | BIT(5) | BIT(8)); /* BMI1, AVX2, BMI2 */
            c &= ~(BIT(9) | BIT(10));         /* VAES, VPCLMULQDQ */
        }
    }
    if (leaf == 7 && part == 1) /* AVX-VNNI, bfloat16 */
        a = b = c = d = 0;
    if (leaf == 1 && sse)
        c &= ~(BIT(12) | BIT(28) | BIT(29)); /* FMA, AVX, F16C */
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
    const char *level = getenv("OLDER_PROCESSOR");
    sse = level && !strcmp(level, "sse4");
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    if (let_cpuid_fault(1)) {
        fprintf(stderr, "older_processor: cpuid cannot be made to fault here: %s\n", strerror(errno));
        _exit(1);
    }
}
