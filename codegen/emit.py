"""Loop IR -> LLVM IR text, through tables: operation -> instruction.

A kernel becomes  void NAME(ptr args, i64 n, i64 lo, i64 hi, ptr own): args points to one pointer a buffer,
in order, n is the batch extent, the parallel variable runs over [lo, hi), and own is memory for the private
buffers. It loads the pointers and calls NAME.body, whose pointer parameters are noalias: two buffers never
overlap.

The text is already in SSA form: loops carry the registers they set as phis. Index arithmetic and
splats are numbered by their text, so that none is computed twice, and placed before the outermost loop
in which they do not change; memory is read exactly where the kernel says. No fast-math flag is set:
what the kernel rounds, the machine rounds, and a NaN stays one.
"""

from __future__ import annotations

from collections.abc import Sequence

from faltung.codegen.arithmetic import Arithmetic
from faltung.codegen.element import ELEMS, Type, type_of
from faltung.codegen.loops import (
    Buffer,
    Const,
    Expr,
    For,
    Gather,
    If,
    Int,
    Kernel,
    LaneIndex,
    Let,
    Load,
    Prefetch,
    Reg,
    Set,
    Stmt,
    Store,
    Temp,
    Var,
    key,
    peel,
    splat,
)
from faltung.codegen.ssa import Block, Lines, flat, llvm, mangled, memory
from faltung.codegen.target import Target


class Body(Arithmetic):
    """Emits the body function of one kernel: its statements and its accesses to memory."""

    def __init__(self, kernel: Kernel, target: Target, declarations: set[str]) -> None:
        super().__init__(target, declarations)
        self.kernel = kernel
        self.buffers = (*kernel.buffers, *kernel.private)
        self.label = "entry"  # of the basic block being written
        self.pinned: set[str] = set()  # addresses from which constants are counted in machine code

    def text(self) -> str:
        """The function, with its loop over the part of the parallel range it is given."""
        lo, hi = Var("lo of part"), Var("hi of part")
        self.names |= {key(lo): "%lo", key(hi): "%hi"}
        whole: tuple[Stmt, ...] = (For(self.kernel.variable, lo, hi, 1, self.kernel.body),)
        self.block((For(self.kernel.sweep[0], Int(0), self.kernel.sweep[1], 1, whole),) if self.kernel.sweep else whole)
        self.lines.append("  ret void")
        parameters = ", ".join(
            [f"ptr noalias {'' if b.written else 'readonly '}%b{i}" for i, b in enumerate(self.buffers)]
            + ["i64 %n", "i64 %lo", "i64 %hi"]
        )
        return (
            f'define internal void @"{self.kernel.name}.body"({parameters}) #0 {{\nentry:\n'
            + "\n".join(flat(self.lines))
            + "\n}\n"
        )

    # ---- memory ----

    def pointer(self, buffer: Buffer, address: Expr, inbounds: str = "inbounds ") -> str:
        """base + variable part + constant part: the last becomes the displacement of an instruction."""
        base, t = f"%b{self.buffers.index(buffer)}", ELEMS[buffer.elem].memory
        variable, op, constant = peel(address)
        address, constant = (variable, constant) if op == "+" else (address, 0)
        offset = self.value(address)
        if offset != "0":
            base = self.hoisted(f"getelementptr {inbounds}{t}, ptr {base}, i64 {offset}", base, offset)
            if isinstance(address, Temp) and key(address) in self.pinned:
                # LLVM's strength reduction does not look through it. It would give each read of a long loop body a pointer
                # of its own, more than there are registers.
                base = self.hoisted(f"freeze ptr {base}", base)
        return self.hoisted(f"getelementptr {inbounds}{t}, ptr {base}, i64 {constant}", base) if constant else base

    def read(self, x: Expr) -> str:
        """The value of a Load or a Gather."""
        if isinstance(x, Load):
            return self.load(x)
        if isinstance(x, Gather):
            return self.gather(x)
        raise TypeError(f"{type(x).__name__} is no expression of the Loop IR")

    def load(self, x: Load) -> str:
        p, t, align = self.pointer(x.buffer, x.address), memory(x.type), ELEMS[x.type.elem].bytes
        if x.mask is None:
            return self.from_memory(self.here(f"load {t}, ptr {p}, align {align}"), x.type)
        mask = self.value(x.mask)
        if x.type.lanes == 1:
            mask, p, lane = self.one_lane(mask), p, True
        else:
            lane = False
        wide = f"<1 x {t}>" if lane else t
        name = f"llvm.masked.load.{'v1' if lane else ''}{mangled(x.type)}.p0"
        lanes = f"<{x.type.lanes} x i1>"
        args = [("ptr", p), ("i32", str(align)), (lanes, mask), (wide, "zeroinitializer")]
        loaded = self.here(self.intrinsic(wide, name, args))
        if lane:
            loaded = self.here(f"extractelement {wide} {loaded}, i64 0")
        return self.from_memory(loaded, x.type)

    def one_lane(self, mask: str) -> str:
        return self.compute(f"insertelement <1 x i1> poison, i1 {mask}, i64 0", mask)

    def from_memory(self, v: str, type: Type) -> str:
        return self.compute(f"trunc {memory(type)} {v} to {llvm(type)}", v) if type.kind == "bool" else v

    def gather(self, x: Gather) -> str:
        """Scalar reads put together; with a mask the intrinsic, which reads only where the mask holds."""
        t, elem, align = memory(x.type), ELEMS[x.type.elem].memory, ELEMS[x.type.elem].bytes
        n = x.type.lanes
        if n == 1:
            return self.value(Load(x.buffer, x.address, x.type, x.mask))
        if x.mask is None:
            v = "poison"
            for lane in range(n):
                p = self.pointer(x.buffer, x.address + x.stride * lane)
                one = self.here(f"load {elem}, ptr {p}, align {align}")
                v = self.here(f"insertelement {t} {v}, {elem} {one}, i64 {lane}")
            return self.from_memory(v, x.type)
        offsets = self.value(LaneIndex(type_of("i64", n)) * splat(x.stride, n))
        base = self.pointer(x.buffer, x.address)
        pointers = self.compute(f"getelementptr {elem}, ptr {base}, <{n} x i64> {offsets}", base, offsets)
        args = [(f"<{n} x ptr>", pointers), ("i32", str(align)), (f"<{n} x i1>", self.value(x.mask))]
        name = f"llvm.masked.gather.{mangled(x.type)}.v{n}p0"
        return self.from_memory(self.here(self.intrinsic(t, name, [*args, (t, "zeroinitializer")])), x.type)

    def store(self, stmt: Store) -> None:
        v, type = self.value(stmt.value), stmt.value.type
        p, t, align = self.pointer(stmt.buffer, stmt.address), memory(type), ELEMS[type.elem].bytes
        if type.kind == "bool":
            v = self.compute(f"zext {llvm(type)} {v} to {t}", v)
        if stmt.mask is None:
            self.lines.append(f"  store {t} {v}, ptr {p}, align {align}")
            return
        mask, name = self.value(stmt.mask), mangled(type)
        if type.lanes == 1:
            mask, v = self.one_lane(mask), self.compute(f"insertelement <1 x {t}> poison, {t} {v}, i64 0", v)
            t, name = f"<1 x {t}>", f"v1{name}"
        args = [(t, v), ("ptr", p), ("i32", str(align)), (f"<{type.lanes} x i1>", mask)]
        self.lines.append("  " + self.intrinsic("void", f"llvm.masked.store.{name}.p0", args))

    def prefetch(self, stmt: Prefetch) -> None:
        """Into all levels of the cache; for writing, out of those of other cores."""
        p = self.pointer(stmt.buffer, stmt.address, "")
        args = [("ptr", p), ("i32", str(int(stmt.write))), ("i32", "3"), ("i32", "1")]
        self.lines.append("  " + self.intrinsic("void", "llvm.prefetch.p0", args))

    # ---- control ----

    def block(self, body: Sequence[Stmt]) -> None:
        for stmt in body:
            self.memo.clear()
            match stmt:
                case Set():
                    self.names[key(stmt.register)] = self.value(stmt.value)
                case Let():
                    self.names[key(stmt.temp)] = self.value(stmt.value)
                    if stmt.pinned:
                        self.pinned.add(key(stmt.temp))
                case Store():
                    self.store(stmt)
                case Prefetch():
                    self.prefetch(stmt)
                case For():
                    lo, hi = self.value(stmt.lo), self.value(stmt.hi)
                    trips = None
                    if isinstance(stmt.lo, Int) and isinstance(stmt.hi, Int):
                        trips = max(0, -(-(stmt.hi.value - stmt.lo.value) // stmt.step))
                    if trips == 1:
                        self.inline(stmt.body, {key(stmt.variable): lo})
                    elif trips != 0:
                        self.loop(stmt.variable, lo, hi, stmt.step, stmt.body, trips is not None)
                case If():
                    self.branch(stmt)

    def inline(self, body: Sequence[Stmt], bound: dict[str, str]) -> None:
        """A block that runs exactly once, with no jump around it."""
        outer = list(self.names)
        self.names.update(bound)
        self.block(body)
        self.names = {k: self.names[k] for k in outer}

    def open(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.label = label

    def loop(self, variable: Var, lo: str, hi: str, step: int, body: Sequence[Stmt], sure: bool) -> None:
        """`for variable in lo, lo+step, .. < hi`; `sure` tells that it runs at least once."""
        number = self.fresh("")
        head, done = f"loop{number}", f"done{number}"
        before: Lines = []
        self.lines.append(before)
        source = self.label
        if sure:
            self.lines.append(f"  br label %{head}")
        else:
            guard = self.fresh()
            self.lines += [f"  {guard} = icmp slt i64 {lo}, {hi}", f"  br i1 {guard}, label %{head}, label %{done}"]
        self.open(head)
        phis: Lines = []
        self.lines.append(phis)
        self.blocks.append(Block(before))
        inner = len(self.blocks) - 1
        outer = dict(self.names)
        carried = {k: self.fresh("%r") for k in assigned(body) if k in outer}
        index = self.fresh("%i")
        self.names.update(carried)
        self.names[key(variable)] = index
        self.depth.update(dict.fromkeys([index, *carried.values()], inner))
        types = {key(s): llvm(s.type) for s in assigned_registers(body)}
        self.block(body)
        latch, following, again = self.label, self.fresh(), self.fresh()
        self.lines += [
            f"  {following} = add nsw i64 {index}, {step}",
            f"  {again} = icmp slt i64 {following}, {hi}",
            f"  br i1 {again}, label %{head}, label %{done}",
        ]
        phis.append(f"  {index} = phi i64 [ {lo}, %{source} ], [ {following}, %{latch} ]")
        for k, phi in carried.items():
            phis.append(f"  {phi} = phi {types[k]} [ {outer[k]}, %{source} ], [ {self.names[k]}, %{latch} ]")
        self.blocks.pop()
        self.open(done)
        for k in carried:
            last = self.names[k]
            if not sure:
                last = self.fresh("%r")
                self.lines.append(f"  {last} = phi {types[k]} [ {outer[k]}, %{source} ], [ {self.names[k]}, %{latch} ]")
            if self.depth.get(last, 0) >= inner:  # defined in the body, which has run: visible from here on
                self.depth[last] = inner - 1
            outer[k] = last
        self.names = outer

    def branch(self, stmt: If) -> None:
        condition = self.value(stmt.condition)
        if isinstance(stmt.condition, Const):
            self.inline(stmt.body if stmt.condition.value else stmt.orelse, {})
            return
        number = self.fresh("")
        before: Lines = []
        self.lines.append(before)
        merge = f"merge{number}"
        labels = [f"then{number}", f"else{number}"]
        self.lines.append(f"  br i1 {condition}, label %{labels[0]}, label %{labels[1]}")
        outer = dict(self.names)
        ends: list[tuple[str, dict[str, str]]] = []
        for label, body in zip(labels, (stmt.body, stmt.orelse), strict=True):
            self.names = dict(outer)
            self.open(label)
            self.blocks.append(Block(before))
            self.block(body)
            self.blocks.pop()
            self.lines.append(f"  br label %{merge}")
            ends.append((self.label, self.names))
        self.open(merge)
        types = {key(s): llvm(s.type) for s in assigned_registers((*stmt.body, *stmt.orelse))}
        for k in types:
            if k in outer:
                phi = self.fresh("%r")
                arms = ", ".join(f"[ {names[k]}, %{label} ]" for label, names in ends)
                self.lines.append(f"  {phi} = phi {types[k]} {arms}")
                self.depth[phi] = len(self.blocks) - 1
                outer[k] = phi
        self.names = outer


def assigned_registers(body: Sequence[Stmt]) -> list[Reg]:
    """Every register that is set somewhere in the block, once each, in order of first assignment."""
    found: dict[str, Reg] = {}
    for stmt in body:
        inner: Sequence[Reg] = ()
        if isinstance(stmt, Set):
            inner = (stmt.register,)
        elif isinstance(stmt, For):
            inner = assigned_registers(stmt.body)
        elif isinstance(stmt, If):
            inner = assigned_registers((*stmt.body, *stmt.orelse))
        for register in inner:
            found.setdefault(register.name, register)
    return list(found.values())


def assigned(body: Sequence[Stmt]) -> list[str]:
    """The keys of the registers that are set in the block."""
    return [key(register) for register in assigned_registers(body)]


def module(kernels: Sequence[Kernel], target: Target) -> str:
    """The LLVM IR text of the kernels; each becomes a function void NAME(ptr args, i64 n, i64 lo, i64 hi, ptr own)."""
    declarations: set[str] = set()
    functions = []
    for kernel in kernels:
        functions.append(Body(kernel, target, declarations).text())
        functions.append(entry(kernel))
    bits = 32 * target.lanes("f32")
    attributes = (
        f'attributes #0 = {{ nounwind "no-builtins" "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}" }}'
    )
    return "\n".join([*functions, *sorted(declarations), attributes, ""])


def entry(kernel: Kernel) -> str:
    """The exported function: loads the buffers' addresses and calls the body."""
    lines = [f'define void @"{kernel.name}"(ptr %args, i64 %n, i64 %lo, i64 %hi, ptr %own) #0 {{']
    for i, _ in enumerate(kernel.buffers):
        lines.append(f"  %s{i} = getelementptr inbounds ptr, ptr %args, i64 {i}")
        lines.append(f"  %b{i} = load ptr, ptr %s{i}, align 8")
    for i, offset in enumerate(kernel.offsets[:-1], len(kernel.buffers)):
        lines.append(f"  %b{i} = getelementptr inbounds i8, ptr %own, i64 {offset}")
    count = len(kernel.buffers) + len(kernel.private)
    arguments = ", ".join([*(f"ptr %b{i}" for i in range(count)), "i64 %n", "i64 %lo", "i64 %hi"])
    lines += [f'  call void @"{kernel.name}.body"({arguments})', "  ret void", "}", ""]
    return "\n".join(lines)
