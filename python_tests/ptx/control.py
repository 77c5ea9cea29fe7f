"""The program counter: branches, barriers, the end.

Of the threads that can run, those at the lowest place of the program go first, until the next label, branch or barrier;
so threads that parted come together again where their paths meet.
"""

import numpy as np
from ptx import access, arithmetic, bitwise, warps
from ptx.machine import Machine
from ptx.parser import Instruction, Number
from ptx.values import handler

assert access and arithmetic and bitwise  # imported for their handlers

CONTROL = {"bra", "brx", "ret", "exit", "trap", "bar", "barrier", "membar", "fence", "prefetch", "prefetchu", "discard"}
NOTHING = {"membar", "fence", "prefetch", "prefetchu", "discard"}
MOST_STEPS = 20_000_000


class Run:
    def __init__(self, m: Machine) -> None:
        self.m, self.body = m, m.code.body
        self.end = len(self.body)
        self.at = np.zeros(len(m.threads), np.int64)  # per thread, its place in the program
        self.waiting = np.zeros(len(m.threads), bool)  # at a barrier
        self.handlers = [handler(i) for i in self.body]
        self.stops = set(m.code.labels.values()) | {self.end}

    def all(self) -> None:
        for _ in range(MOST_STEPS):
            runnable = (self.at < self.end) & ~self.waiting
            if runnable.any():
                at = int(self.at[runnable].min())
                self.straight(at, np.flatnonzero(runnable & (self.at == at)))
            elif self.waiting.any():
                self.barrier()
            else:
                break
        else:
            raise self.body[int(self.at.min())].error("no end in sight")
        if self.m.copies.under_way:
            copy = self.m.copies.under_way[0]
            raise copy.instruction.error(f"cp.async never waited for by {self.m.who(copy.threads[0])}")

    def straight(self, at: int, threads: np.ndarray) -> None:
        """Runs `threads` from `at` to where they may part or meet others."""
        everyone = slice(None) if len(threads) == len(self.at) else threads
        while True:
            i = self.body[at]
            self.m.report.instructions += len(threads)
            active, some = everyone, threads
            if i.guard:
                some = threads[np.broadcast_to(self.m.read(i.guard, "pred", everyone), len(threads))]
                active = everyone if len(some) == len(threads) else some
            at += 1
            if i.opcode in CONTROL and i.opcode not in NOTHING:
                if self.control(i, at, threads, some):
                    return
            elif len(some) and i.opcode not in NOTHING:
                execute = self.handlers[at - 1]
                if not execute:
                    raise i.error("not modelled")
                execute(self.m, i, active)
            if at in self.stops:
                self.at[threads] = at
                return

    def control(self, i: Instruction, following: int, threads: np.ndarray, active: np.ndarray) -> bool:
        """Branch, return or barrier: moves the threads and says whether they stop here."""
        if i.opcode in ("bar", "barrier"):
            if len(active) and len(active) < len(threads):
                raise i.error("a barrier under a condition is not modelled")
            if "warp" in i.modifiers:
                if len(active):
                    self.sync_warp(i, active)
                return False
            self.check_barrier(i)
            self.at[threads] = following
            self.waiting[active] = True
            return True
        if i.opcode == "trap" and len(active):
            raise i.error(f"trap reached by {self.m.who(active[0])}")
        self.at[threads] = following
        if i.opcode in ("ret", "exit"):
            self.at[active] = self.end
        elif i.opcode == "bra":
            self.at[active] = self.m.code.labels[i.operands[0].name]
        elif i.opcode == "brx":
            targets = np.array([self.m.code.labels[t] for t in self.m.code.targets[i.operands[1].name]])
            self.at[active] = targets[self.m.read(i.operands[0], "u32", active)]
        return True

    def sync_warp(self, i: Instruction, threads: np.ndarray) -> None:
        """__syncwarp: orders the memory accesses of the warp."""
        m, here = self.m, warps.Warps(self.m, threads)
        member = here.check(m, i, threads, m.read(i.operands[0], "u32", threads))
        partly = (member[:, 0] != here.exists).any(1) if here.count else np.zeros(0, bool)
        if partly.any():
            raise i.error("__syncwarp of a part of the warp is not modelled")
        m.syncs[np.unique(m.warp[threads])] += 1

    def check_barrier(self, i: Instruction) -> None:
        whole = len(i.operands) == 1 or i.operands[1] == Number(self.m.per_block)
        if not whole or not isinstance(i.operands[0], Number) or set(i.modifiers) - {"sync", "cta", "aligned"}:
            raise i.error("not modelled")

    def barrier(self) -> None:
        """Everybody who is left waits: releases the blocks, each of which must be complete and at one barrier."""
        m = self.m
        place = np.where(self.waiting, self.at, -1).reshape(len(m.blocks), m.per_block)
        some = (place >= 0).any(1)
        for b in np.flatnonzero(some & (place != place[:, :1]).any(1)):
            first = place[b].argmax()
            i, name = self.body[place[b, first] - 1], m.who(b * m.per_block + first)
            other = int(np.flatnonzero(place[b] != place[b, first])[0])
            if place[b, other] < 0:
                raise i.error(f"barrier reached by {name} while thread {other} of the block has returned")
            at = self.body[place[b, other] - 1].place
            raise i.error(f"threads of one block wait at different barriers: {name} here, thread {other} at {at}")
        m.interval[some] += 1
        self.waiting[:] = False


def run(m: Machine) -> None:
    with np.errstate(all="ignore"):
        Run(m).all()
