"""The native text of the driver: what every thread runs to carry out a plan, and the wait loops around it.

A plan (`runtime/plan.py`) is an array of records in memory.  A record names one kernel, `void kernel(ptr args, i64 n, i64 lo, i64 hi, ptr own)`,
the array of buffer pointers it takes, its work `total = const + per_batch * n`, and whether all threads must have
finished what came before (a barrier).  Thread t of T runs [total*t/T, total*(t+1)/T) of every record, with its own
of the plan's private memory.  A record works on so many `images` of the n at most, a round; the last one of a round says
with which one the next round begins, for which each pointer moves on by the size of the images before.

Exported functions (all plain C calls):

    dispatch(state, plan, n, patience) -> i32     0 = the plan has run; 1 = workers sleep, nothing was started
    serve(state, tid) -> i32                      a worker: runs jobs; 1 = parked, sleep and come back; 0 = stop
    alone(plan, n)                                the whole plan on the calling thread
    halt(state)                                   tell the workers to stop
    clock() -> i64                                ticks; see `seconds_per_tick`
    idle(spins, yield)                            spin that often; measures the length of one spin

Memory orders.  One 64-bit word decides everything that must be decided once:

    word = epoch << 16 | STOP | HOLD | parked     epoch counts jobs, parked counts workers that sleep

* A worker parks by compare-and-swap `word -> word + 1`, a caller publishes a job by compare-and-swap
  `word (parked = 0) -> next epoch`.  Both act on one location, whose modifications have one order, so either the job
  comes first and the worker sees a changed epoch, or the parking comes first and the caller sees parked > 0.
  A wake-up cannot be lost, and no sequentially consistent fence is needed.
* Until the publishing swap succeeds nothing has been started, and after it the call returns only when every thread is
  done.  So an exception raised in Python between two calls of `dispatch` finds the pool whole.
* The swap is a release and follows the stores of the job (plan, n); workers load the word with acquire.  A worker reads
  the job before its last arrival, and the caller writes the next job after having seen that arrival.
* A barrier: each thread counts its arrivals in its own cache line (store release) and waits until every other count has
  reached its own (load acquire).  All pairs synchronise, so all that was written before is visible to all after.
  Counts only grow and every thread meets every barrier, so they stay equal from job to job and never need a reset.
* HOLD asks workers not to park while a caller waits for the last sleeper; only a caller sets it, and always clears it.

A kernel that stores past the caches (non-temporal) has to fence those stores itself; ordinary stores need nothing.

Every share runs in one floating-point mode: round to nearest, exceptions masked, subnormals flushed to zero where the
architecture has that mode in user space; the mode of the calling thread is restored afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Template

LINE = 128                # bytes between what different threads write: two lines, as some processors fetch pairs


@dataclass(frozen=True, slots=True)
class Machine:
    """How one architecture says what LLVM has no common word for."""

    declarations: str
    pause: str      # tell the core that this is a wait loop
    clock: str      # %ticks = a counter that user code may read
    enter: str      # save the floating-point mode in %saved and set ours
    leave: str      # restore it


_X86 = Machine(
    declarations="""
declare void @llvm.x86.sse2.pause()
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare i64 @llvm.readcyclecounter()""",
    pause="call void @llvm.x86.sse2.pause()",
    clock="%ticks = call i64 @llvm.readcyclecounter()",
    # 0x9fc0: flush to zero (bit 15), all exceptions masked (12-7), subnormals are zero (6), round to nearest (14-13)
    enter="""%saved = alloca i32
  %mode = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %saved)
  store i32 40896, ptr %mode
  call void @llvm.x86.sse.ldmxcsr(ptr %mode)""",
    leave="call void @llvm.x86.sse.ldmxcsr(ptr %saved)")

# No inline assembly here: LLVM ends the process when nobody has initialised an assembly parser.
_ARM = Machine(
    declarations="""
declare void @llvm.aarch64.isb(i32)
declare i64 @llvm.read_volatile_register.i64(metadata)
!0 = !{!"cntvct_el0"}""",
    pause="call void @llvm.aarch64.isb(i32 15)",        # waits a little; the instruction `yield` mostly does nothing
    # LLVM's cycle counter traps in user code on this architecture; the virtual timer does not
    clock="%ticks = call i64 @llvm.read_volatile_register.i64(metadata !0)",
    enter="", leave="")

_OTHER = Machine(declarations="", pause="", clock="%ticks = add i64 0, 0", enter="", leave="")

#            platform.machine()   how to speak to it
MACHINES = {"x86_64": _X86,
            "amd64": _X86,
            "aarch64": _ARM,
            "arm64": _ARM}

_TEXT = """
%Record = type { ptr, ptr, i64, i64, i64, ptr, i64, i64, i64 }
%Plan = type { ptr, i64, ptr, ptr, i64, i64 }
%Line = type { i64, i64, [$LINE_REST x i8] }
%State = type { i64, ptr, i64, i64, i64, ptr, [$STATE_REST x i8], [0 x %Line] }
$DECLARATIONS

; One turn of a wait loop.  Now and then the core is offered to whoever else wants it: with more threads than cores the
; thread waited for may need this very core.
define internal void @relax(ptr %give_way, i64 %turn) nounwind {
  $PAUSE
  %low = and i64 %turn, 255
  %due = icmp eq i64 %low, 255
  br i1 %due, label %ask, label %out
ask:
  %absent = icmp eq ptr %give_way, null
  br i1 %absent, label %out, label %give
give:
  %ignored = call i32 %give_way()
  br label %out
out:
  ret void
}

define internal i64 @stamp(i1 %timed) nounwind {
  br i1 %timed, label %read, label %skip
read:
  $CLOCK
  ret i64 %ticks
skip:
  ret i64 0
}

define i64 @faltung_clock() nounwind {
  %now = call i64 @stamp(i1 true)
  ret i64 %now
}

define void @faltung_idle(i64 %turns, ptr %give_way) nounwind {
entry:
  br label %loop
loop:
  %turn = phi i64 [ 0, %entry ], [ %next, %loop ]
  call void @relax(ptr %give_way, i64 %turn)
  %next = add i64 %turn, 1
  %more = icmp slt i64 %next, %turns
  br i1 %more, label %loop, label %out
out:
  ret void
}

; Publish `count` as the arrivals of thread tid; if asked, wait until every thread has as many.
define internal void @meet(ptr %lines, i64 %tid, i64 %threads, i64 %count, ptr %give_way, i1 %wait) nounwind {
entry:
  %mine = getelementptr inbounds %Line, ptr %lines, i64 %tid
  store atomic i64 %count, ptr %mine release, align 8
  br i1 %wait, label %each, label %out
each:
  %t = phi i64 [ 0, %entry ], [ %following, %there ]
  %theirs = getelementptr inbounds %Line, ptr %lines, i64 %t
  br label %look
look:
  %turn = phi i64 [ 0, %each ], [ %later, %again ]
  %seen = load atomic i64, ptr %theirs acquire, align 8
  %arrived = icmp sge i64 %seen, %count
  br i1 %arrived, label %there, label %again
again:
  call void @relax(ptr %give_way, i64 %turn)
  %later = add i64 %turn, 1
  br label %look
there:
  %following = add i64 %t, 1
  %more = icmp slt i64 %following, %threads
  br i1 %more, label %each, label %out
out:
  ret void
}

; What one thread does of one plan.  With one thread the state is not touched and may be null.
define internal void @share(ptr %state, ptr %plan, i64 %n, i64 %tid, i64 %threads) nounwind {
entry:
  $ENTER
  %many = icmp sgt i64 %threads, 1
  %records = load ptr, ptr %plan
  %count.p = getelementptr inbounds %Plan, ptr %plan, i64 0, i32 1
  %count = load i64, ptr %count.p
  %ticks.p = getelementptr inbounds %Plan, ptr %plan, i64 0, i32 2
  %ticks = load ptr, ptr %ticks.p
  %timed = icmp ne ptr %ticks, null
  %before = mul i64 %tid, %count
  %private.p = getelementptr inbounds %Plan, ptr %plan, i64 0, i32 3
  %private = load ptr, ptr %private.p
  %each.p = getelementptr inbounds %Plan, ptr %plan, i64 0, i32 4
  %each = load i64, ptr %each.p
  %mine.at = mul i64 %each, %tid
  %own = getelementptr i8, ptr %private, i64 %mine.at
  %most.p = getelementptr inbounds %Plan, ptr %plan, i64 0, i32 5
  %most = load i64, ptr %most.p
  %moved = alloca ptr, i64 %most
  br i1 %many, label %join, label %begin
join:
  %lines = getelementptr %State, ptr %state, i64 0, i32 7
  %mine = getelementptr %Line, ptr %lines, i64 %tid
  %old = load atomic i64, ptr %mine monotonic, align 8
  %give_way.p = getelementptr %State, ptr %state, i64 0, i32 5
  %give_way.s = load ptr, ptr %give_way.p
  br label %begin
begin:
  %arrivals.0 = phi i64 [ 0, %entry ], [ %old, %join ]
  %give_way = phi ptr [ null, %entry ], [ %give_way.s, %join ]
  %line0 = phi ptr [ null, %entry ], [ %lines, %join ]
  br label %next
next:
  %k = phi i64 [ 0, %begin ], [ %k.1, %done ]
  %first = phi i64 [ 0, %begin ], [ %first.1, %done ]
  %arrivals = phi i64 [ %arrivals.0, %begin ], [ %arrivals.k, %done ]
  %more = icmp slt i64 %k, %count
  br i1 %more, label %step, label %finish
step:
  %record = getelementptr inbounds %Record, ptr %records, i64 %k
  %kernel = load ptr, ptr %record
  %args.p = getelementptr inbounds %Record, ptr %record, i64 0, i32 1
  %args = load ptr, ptr %args.p
  %const.p = getelementptr inbounds %Record, ptr %record, i64 0, i32 2
  %const = load i64, ptr %const.p
  %per_batch.p = getelementptr inbounds %Record, ptr %record, i64 0, i32 3
  %per_batch = load i64, ptr %per_batch.p
  %barrier.p = getelementptr inbounds %Record, ptr %record, i64 0, i32 4
  %barrier.i = load i64, ptr %barrier.p
  %barrier.b = icmp ne i64 %barrier.i, 0
  %barrier = and i1 %barrier.b, %many
  %came = call i64 @stamp(i1 %timed)
  br i1 %barrier, label %meeting, label %work
meeting:
  %arrivals.1 = add i64 %arrivals, 1
  call void @meet(ptr %line0, i64 %tid, i64 %threads, i64 %arrivals.1, ptr %give_way, i1 true)
  br label %work
work:
  %arrivals.k = phi i64 [ %arrivals, %step ], [ %arrivals.1, %meeting ]
  %started = call i64 @stamp(i1 %timed)
  %images.p = getelementptr inbounds %Record, ptr %record, i64 0, i32 7
  %images = load i64, ptr %images.p
  %rest = sub i64 %n, %first
  %fewer = icmp slt i64 %images, %rest
  %now = select i1 %fewer, i64 %images, i64 %rest
  %varying = mul i64 %per_batch, %now
  %total = add i64 %const, %varying
  %lo.t = mul i64 %total, %tid
  %lo = sdiv i64 %lo.t, %threads
  %hi.t = add i64 %lo.t, %total
  %hi = sdiv i64 %hi.t, %threads
  %some = icmp slt i64 %lo, %hi
  br i1 %some, label %call, label %count.up
call:
  %begins = icmp eq i64 %first, 0
  br i1 %begins, label %go, label %move
move:
  %arity.p = getelementptr inbounds %Record, ptr %record, i64 0, i32 6
  %arity = load i64, ptr %arity.p
  %sizes.p = getelementptr inbounds %Record, ptr %record, i64 0, i32 5
  %sizes = load ptr, ptr %sizes.p
  br label %pointer
pointer:
  %b = phi i64 [ 0, %move ], [ %b.1, %pointer ]
  %at.p = getelementptr inbounds ptr, ptr %args, i64 %b
  %at = load ptr, ptr %at.p
  %size.p = getelementptr inbounds i64, ptr %sizes, i64 %b
  %size = load i64, ptr %size.p
  %by = mul i64 %size, %first
  %to = getelementptr i8, ptr %at, i64 %by
  %to.p = getelementptr inbounds ptr, ptr %moved, i64 %b
  store ptr %to, ptr %to.p
  %b.1 = add i64 %b, 1
  %others = icmp slt i64 %b.1, %arity
  br i1 %others, label %pointer, label %go
go:
  %given = phi ptr [ %args, %call ], [ %moved, %pointer ]
  call void %kernel(ptr %given, i64 %now, i64 %lo, i64 %hi, ptr %own)
  br label %count.up
count.up:
  br i1 %timed, label %note, label %done
note:
  %ended = call i64 @stamp(i1 %timed)
  %cell = add i64 %before, %k
  %cell.2 = shl i64 %cell, 1
  %waiting.p = getelementptr inbounds i64, ptr %ticks, i64 %cell.2
  %waiting = load i64, ptr %waiting.p
  %waited = sub i64 %started, %came
  %waiting.1 = add i64 %waiting, %waited
  store i64 %waiting.1, ptr %waiting.p
  %working.p = getelementptr inbounds i64, ptr %waiting.p, i64 1
  %working = load i64, ptr %working.p
  %worked = sub i64 %ended, %started
  %working.1 = add i64 %working, %worked
  store i64 %working.1, ptr %working.p
  br label %done
done:
  %k.next = add i64 %k, 1
  %first.next = add i64 %first, %images
  %again.p = getelementptr inbounds %Record, ptr %record, i64 0, i32 8
  %again = load i64, ptr %again.p
  %ends = icmp sge i64 %again, 0
  %left = icmp slt i64 %first.next, %n
  %repeats = and i1 %ends, %left
  %k.1 = select i1 %repeats, i64 %again, i64 %k.next
  %first.end = select i1 %ends, i64 0, i64 %first
  %first.1 = select i1 %repeats, i64 %first.next, i64 %first.end
  br label %next
finish:
  $LEAVE
  br i1 %many, label %part, label %out
part:
  %arrivals.end = add i64 %arrivals, 1
  %caller = icmp eq i64 %tid, 0
  call void @meet(ptr %line0, i64 %tid, i64 %threads, i64 %arrivals.end, ptr %give_way, i1 %caller)
  br label %out
out:
  ret void
}

define void @faltung_alone(ptr %plan, i64 %n) nounwind {
  call void @share(ptr null, ptr %plan, i64 %n, i64 0, i64 1)
  ret void
}

define i32 @faltung_dispatch(ptr %state, ptr %plan, i64 %n, i64 %patience) nounwind {
entry:
  %plan.p = getelementptr inbounds %State, ptr %state, i64 0, i32 1
  %n.p = getelementptr inbounds %State, ptr %state, i64 0, i32 2
  %threads.p = getelementptr inbounds %State, ptr %state, i64 0, i32 3
  %threads = load i64, ptr %threads.p
  %give_way.p = getelementptr inbounds %State, ptr %state, i64 0, i32 5
  %give_way = load ptr, ptr %give_way.p
  %patient = icmp sgt i64 %patience, 0
  br label %look
look:
  %word = load atomic i64, ptr %state acquire, align 8
  %parked = and i64 %word, $PARKED
  %ready = icmp eq i64 %parked, 0
  br i1 %ready, label %publish, label %absent
absent:
  br i1 %patient, label %hold, label %asleep
hold:
  %held = atomicrmw or ptr %state, i64 $HOLD acq_rel, align 8
  br label %wait
wait:
  %turn = phi i64 [ 0, %hold ], [ %turn.1, %longer ]
  call void @relax(ptr %give_way, i64 %turn)
  %word.w = load atomic i64, ptr %state acquire, align 8
  %parked.w = and i64 %word.w, $PARKED
  %ready.w = icmp eq i64 %parked.w, 0
  br i1 %ready.w, label %look, label %longer
longer:
  %turn.1 = add i64 %turn, 1
  %bear = icmp slt i64 %turn.1, %patience
  br i1 %bear, label %wait, label %release
release:
  %freed = atomicrmw and ptr %state, i64 $NOT_HOLD acq_rel, align 8
  br label %asleep
asleep:
  ret i32 1
publish:
  store ptr %plan, ptr %plan.p
  store i64 %n, ptr %n.p
  %epoch = lshr i64 %word, 16
  %epoch.1 = add i64 %epoch, 1
  %word.1 = shl i64 %epoch.1, 16
  %swap = cmpxchg ptr %state, i64 %word, i64 %word.1 acq_rel acquire, align 8
  %swapped = extractvalue { i64, i1 } %swap, 1
  br i1 %swapped, label %run, label %look
run:
  call void @share(ptr %state, ptr %plan, i64 %n, i64 0, i64 %threads)
  ret i32 0
}

define i32 @faltung_serve(ptr %state, i64 %tid) nounwind {
entry:
  %plan.p = getelementptr inbounds %State, ptr %state, i64 0, i32 1
  %n.p = getelementptr inbounds %State, ptr %state, i64 0, i32 2
  %threads.p = getelementptr inbounds %State, ptr %state, i64 0, i32 3
  %spins.p = getelementptr inbounds %State, ptr %state, i64 0, i32 4
  %spins = load i64, ptr %spins.p
  %give_way.p = getelementptr inbounds %State, ptr %state, i64 0, i32 5
  %give_way = load ptr, ptr %give_way.p
  %seen.p = getelementptr %State, ptr %state, i64 0, i32 7, i64 %tid, i32 1
  %seen.0 = load i64, ptr %seen.p
  %woken = atomicrmw sub ptr %state, i64 1 acq_rel, align 8
  br label %ready
ready:
  %seen = phi i64 [ %seen.0, %entry ], [ %epoch, %job ]
  br label %poll
poll:
  %turn = phi i64 [ 0, %ready ], [ %turn.1, %spin ], [ %turn.1, %park ]
  %word = load atomic i64, ptr %state acquire, align 8
  %epoch = lshr i64 %word, 16
  %new = icmp ne i64 %epoch, %seen
  br i1 %new, label %job, label %none
none:
  %stop.b = and i64 %word, $STOP
  %stop = icmp ne i64 %stop.b, 0
  br i1 %stop, label %stopped, label %spin
spin:
  call void @relax(ptr %give_way, i64 %turn)
  %turn.1 = add i64 %turn, 1
  %early = icmp slt i64 %turn.1, %spins
  %hold.b = and i64 %word, $HOLD
  %held = icmp ne i64 %hold.b, 0
  %stay = or i1 %early, %held
  br i1 %stay, label %poll, label %park
park:
  %word.1 = add i64 %word, 1
  %swap = cmpxchg ptr %state, i64 %word, i64 %word.1 acq_rel acquire, align 8
  %swapped = extractvalue { i64, i1 } %swap, 1
  br i1 %swapped, label %parked, label %poll
parked:
  ret i32 1
stopped:
  ret i32 0
job:
  store i64 %epoch, ptr %seen.p
  %plan = load ptr, ptr %plan.p
  %n = load i64, ptr %n.p
  %threads = load i64, ptr %threads.p
  call void @share(ptr %state, ptr %plan, i64 %n, i64 %tid, i64 %threads)
  br label %ready
}

define void @faltung_halt(ptr %state) nounwind {
  %old = atomicrmw or ptr %state, i64 $STOP acq_rel, align 8
  ret void
}
"""


def text(machine: str) -> str:
    """The driver as LLVM IR for `machine`, a name as `platform.machine()` gives it."""
    says = MACHINES.get(machine.lower(), _OTHER)
    words = {"DECLARATIONS": says.declarations, "PAUSE": says.pause, "CLOCK": says.clock,
             "ENTER": says.enter, "LEAVE": says.leave,
             "LINE_REST": LINE - 16, "STATE_REST": LINE - 48,
             "NOT_HOLD": ~0x4000, "HOLD": 0x4000, "STOP": 0x8000, "PARKED": 0x3fff}
    return Template(_TEXT).substitute(words)
