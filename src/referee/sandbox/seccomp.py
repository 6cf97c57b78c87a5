"""The pinned system call filter of the `runc` level, as data, and its form in an OCI bundle.

It starts from the distribution's allow-list (containers-common 0.50, `seccomp.json`) and takes away what lets a process
reach past its box: kernel keyrings (they outlive a container and are shared by uid), tracing, new namespaces, mounting,
devices, bpf, perf, userfaultfd, NUMA policy of the host, and every socket family but unix and IP. What is not listed
answers ENOSYS, so that a C library falls back to older calls; what is listed under `REFUSED` answers EPERM, so that a
program sees a refusal and not an old kernel. Only the machine's own architecture is let in: calls of another one
(32-bit or x32 on x86-64) end the process, because their numbers mean something else.
"""

from __future__ import annotations

import errno
import stat
from typing import Any


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ALLOWED = _names(
    """
    accept accept4 access adjtimex alarm bind brk capget capset chdir chmod chown clock_getres clock_gettime
    clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
    epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
    fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork
    fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_waitv futimesat get_robust_list get_thread_area
    getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid
    getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid
    gettimeofday getuid getxattr ioctl ioprio_get kill lchown lgetxattr link linkat listen listxattr llistxattr
    lremovexattr lseek lsetxattr lstat madvise membarrier memfd_create mincore mkdir mkdirat mlock mlock2 mlockall mmap
    mprotect mremap msgctl msgget msgrcv msgsnd
    msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe
    pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 pselect6 pwrite64
    pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr
    rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity
    sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile
    sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups
    setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr
    shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 splice stat statfs statx symlink symlinkat
    sync_file_range sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime
    utimensat utimes vfork wait4 waitid write writev arch_prctl cacheflush
    """
)

REFUSED = _names(
    """
    add_key keyctl request_key ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp
    pidfd_getfd unshare setns mount umount umount2 mount_setattr move_mount open_tree fsconfig fsmount fsopen fspick
    pivot_root chroot bpf perf_event_open userfaultfd fanotify_init fanotify_mark lookup_dcookie quotactl quotactl_fd
    name_to_handle_at open_by_handle_at memfd_secret init_module finit_module delete_module kexec_load kexec_file_load
    acct swapon swapoff reboot syslog vhangup sethostname setdomainname settimeofday clock_settime clock_adjtime
    ioperm iopl modify_ldt uselib ustat sysfs vmsplice migrate_pages move_pages mbind set_mempolicy
    set_mempolicy_home_node get_mempolicy ioprio_set sync syncfs nfsservctl
    """
)

# Answered with ENOSYS by name, so that the reason is on record: C libraries fall back from clone3 to clone (whose
# flags can be seen by a filter) only on ENOSYS, and io_uring makes sockets that no filter sees.
UNKNOWN = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")

# The kernel counts these for the whole machine, or for whoever made the user namespace (the host's root): one sandbox
# could take them all from its neighbours and the host, and tell by them (user_namespaces(7), inotify(7),
# mq_overview(7), /proc/sys/fs/aio-max-nr). Programs do without: they poll, and read files by threads.
SHARED_BY_ALL = (
    "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "io_setup", "io_submit", "io_getevents",
    "io_cancel", "io_destroy", "mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr",
)  # fmt: skip

# AF_UNIX, AF_INET, AF_INET6 (linux/socket.h): the last two end in an empty network namespace.
SOCKET_FAMILIES = (1, 2, 10)

# Every CLONE_NEW* flag that clone(2) takes (linux/sched.h): mount, cgroup, uts, ipc, user, pid, net.
NAMESPACE_FLAGS = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000

# PER_LINUX, PER_LINUX32, each also with UNAME26, and the query: none of these loosens address space randomisation.
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# What mknod may make without being a device: 0 means a regular file.
NODE_KINDS = (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)

_ARCHITECTURES = {"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}


def filter_profile(architecture: str) -> dict[str, Any]:
    """The `linux.seccomp` section of an OCI runtime configuration.

    Args:
        architecture: the image's architecture as OCI writes it, `amd64` or `arm64`.

    Raises:
        KeyError: for an architecture that this profile was not written for.
    """
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": [_ARCHITECTURES[architecture]],
        "syscalls": [
            _rule(list(ALLOWED)),
            {"names": list(REFUSED), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM},
            {"names": [*UNKNOWN, *SHARED_BY_ALL], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
            _rule(["clone"], _masked(0, NAMESPACE_FLAGS, 0)),
            *(_rule(["socket"], _equal(0, family)) for family in SOCKET_FAMILIES),
            *(_no_family(_equal(0, family)) for family in range(max(SOCKET_FAMILIES)) if family not in SOCKET_FAMILIES),
            _no_family({"index": 0, "value": max(SOCKET_FAMILIES), "op": "SCMP_CMP_GT"}),
            _rule(["socketpair"], _equal(0, SOCKET_FAMILIES[0])),
            *(_rule(["personality"], _equal(0, value)) for value in PERSONALITIES),
            *(_rule(["mknod"], _masked(1, stat.S_IFMT(0o177777), kind)) for kind in NODE_KINDS),
            *(_rule(["mknodat"], _masked(2, stat.S_IFMT(0o177777), kind)) for kind in NODE_KINDS),
        ],
    }


def _rule(names: list[str], *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ALLOW", "args": list(arguments)}


def _no_family(argument: dict[str, Any]) -> dict[str, Any]:
    # What a kernel without the family answers: programs that only look whether there is a network carry on.
    return {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EAFNOSUPPORT, "args": [argument]}


def _equal(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


def _masked(index: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
