"""The executor: cases stream through a bounded window over Dask futures, with no barrier between stages.

Neighbouring stages that need the same kind of worker fuse into one *hop*, one Dask task, so arrays stay in the
process that made them; only what the last stage returns comes back. At most ``window`` cases are in flight. What
finishes is committed, in small lots, by the process that called :func:`stream`. A case that raises is an outcome,
not an exception. A worker that dies costs the cases it had in flight: they run again beside others, as most losses
are of the machine; those that are lost once more run one at a time with nothing beside them, so that the case that
kills workers is known for certain and its neighbours are not blamed.

Cases much shorter than a Dask task's own cost (1.3 to 1.4 ms measured) travel in groups of a few; every case of a
group still succeeds, fails and is retried by itself.
"""

from __future__ import annotations

import pickle
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from distributed import Client, Future

from tasks.stage import Failure, Item, Outcome, Stage, fuse, run_hop, run_last_hop

GPU_RESOURCE = "GPU"
"""Name of the Dask resource that marks a GPU worker; dask-cuda defines none itself."""

TASK_SECONDS = 0.05
"""Work a Dask task should carry: some 40 times its own cost, yet short enough to stream."""

WAITING_PER_THREAD = 32
"""Cases in flight per worker thread in a single hop: one that waits there holds nothing but its record."""

HOLDING_PER_THREAD = 4
"""The same over several hops, where a case between two hops holds its volume in a worker's memory."""

LIVENESS_SECONDS = 2.0
"""How often the cluster is asked how many worker threads it has: workers come and go."""


class NoWorkersError(RuntimeError):
    """The scheduler has had no workers for longer than the caller's patience, or is gone itself."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often one case may be started in one run after a transient failure."""

    attempts: int = 2


@dataclass(frozen=True)
class CommitPolicy:
    """Finished cases are committed when there are ``count`` of them or the oldest has waited ``seconds``."""

    count: int = 25
    seconds: float = 2.0


@dataclass(frozen=True)
class Tally:
    """Counts of one call of :func:`stream`."""

    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    peak_in_flight: int = 0


@dataclass(frozen=True)
class _Ticket:
    """A case as the coordinating process sees it."""

    case: Any
    attempts: int = 0
    losses: int = 0


def stream(
    client: Client,
    stages: Sequence[Stage],
    cases: Iterable[Any],
    commit: Callable[[list[Outcome]], None],
    *,
    window: int | None = None,
    retry: RetryPolicy = RetryPolicy(),
    lots: CommitPolicy = CommitPolicy(),
    patience: float = 300.0,
) -> Tally:
    """Run every case through the stages and commit the outcomes as they come.

    Parameters
    ----------
    client
        Connection to any Dask scheduler.
    stages
        The steps, in order.
    cases
        Small picklable records; may be a generator of unknown length. It may yield None for "nothing new yet":
        the window is then left as it is for a moment.
    commit
        Called in this process and thread with each lot of outcomes; must be idempotent.
    window
        Most cases in flight; by default from the cluster's threads.
    retry, lots
        Policies for retries and for commits.
    patience
        Seconds to go on without a single worker.

    Returns
    -------
    Tally

    Raises
    ------
    NoWorkersError
        The cluster is gone, or stayed without workers. As with KeyboardInterrupt, what is in flight is cancelled
        and what was finished is committed first.
    """
    return _Stream(client, stages, iter(cases), commit, window, retry, lots, patience).run()


class _Stream:
    """State of one call of :func:`stream`; used from one thread only."""

    def __init__(
        self,
        client: Client,
        stages: Sequence[Stage],
        cases: Any,
        commit: Callable[[list[Outcome]], None],
        window: int | None,
        retry: RetryPolicy,
        lots: CommitPolicy,
        patience: float,
    ) -> None:
        self.client: Any = client  # Dask's methods are only partly typed
        self.cases, self.commit, self.retry, self.lots = cases, commit, retry, lots
        self.patience, self.fixed_window = patience, window
        self.run_id, self.serial = uuid.uuid4().hex, 0
        self.in_flight: dict[Any, tuple[Future[Any], list[_Ticket]]] = {}
        self.done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self.again: deque[_Ticket] = deque()
        self.suspects: deque[_Ticket] = deque()
        self.uncommitted: list[Outcome] = []
        self.oldest_uncommitted = 0.0
        self.exhausted = False
        self.case_seconds: float | None = None
        self.tally = Tally()
        self.last_look = self.last_seen_workers = time.monotonic()
        self.threads, self.needs_gpu = 0, False
        self._look_at_cluster()
        self.hops = fuse(stages, has_gpu_worker(client))
        self.needs_gpu = any(hop.needs == "gpu" for hop in self.hops)

    def run(self) -> Tally:
        try:
            while self._fill():
                self._collect()
        except BaseException:
            self.client.cancel([future for future, _ in self.in_flight.values()], force=True)
            raise
        finally:
            self.in_flight.clear()
            self._commit()
        return self.tally

    @property
    def window(self) -> int:
        per_thread = WAITING_PER_THREAD if len(self.hops) == 1 else HOLDING_PER_THREAD
        return self.fixed_window or per_thread * max(1, self.threads)

    def _fill(self) -> bool:
        """Submit what the window has room for; False when nothing is left to wait for."""
        while not self.exhausted or self.again:
            room = self.window - self._cases_in_flight()
            tickets = self._take(min(room, self._group_size()))
            if not tickets:
                break
            self._submit(tickets)
        if self.exhausted and not self.in_flight and self.suspects:
            self._submit([self.suspects.popleft()])
        return bool(self.in_flight) or not self.exhausted

    def _cases_in_flight(self) -> int:
        return sum(len(tickets) for _, tickets in self.in_flight.values())

    def _group_size(self) -> int:
        """Cases per Dask task: as many as fill TASK_SECONDS, while every thread still has two groups to take."""
        if self.case_seconds is None:
            return 1
        fair = self.window // (2 * max(1, self.threads))
        return max(1, min(int(TASK_SECONDS / max(self.case_seconds, 1e-6)), fair))

    def _take(self, count: int) -> list[_Ticket]:
        tickets: list[_Ticket] = []
        while len(tickets) < count:
            if self.again:
                tickets.append(self.again.popleft())
                continue
            case = None if self.exhausted else next(self.cases, _END)
            self.exhausted |= case is _END
            if case is None or case is _END:
                break
            tickets.append(_Ticket(case))
        return tickets

    def _submit(self, tickets: list[_Ticket]) -> None:
        self.serial += 1
        value: Any = [Item(ticket.case) for ticket in tickets]
        for hop in self.hops:
            value = self.client.submit(
                run_last_hop if hop is self.hops[-1] else run_hop,
                hop,
                value,
                key=f"{hop.name}-{self.run_id}-{self.serial}",
                pure=False,
                resources={GPU_RESOURCE: 1} if hop.needs == "gpu" else None,
            )
        self.in_flight[value.key] = value, [replace(ticket, attempts=ticket.attempts + 1) for ticket in tickets]
        self._watch(value)
        peak = max(self.tally.peak_in_flight, self._cases_in_flight())
        self.tally = replace(self.tally, peak_in_flight=peak)

    def _watch(self, future: Any) -> None:
        future.add_done_callback(self.done.put)

    def _collect(self) -> None:
        """Wait until something has finished (or a commit is due), then take in everything that has."""
        ready = self._wait()
        finished = {future.key: future for future in ready if future.status == "finished"}
        results = self.client.gather(finished, errors="skip") if finished else {}
        for future in ready:
            if future.key in results:
                _, tickets = self.in_flight.pop(future.key)
                self._settle(tickets, [pickle.loads(sealed) for sealed in results[future.key]])
            elif future.status == "error":
                _, tickets = self.in_flight.pop(future.key)
                self._suspect(tickets, future)
            elif future.status == "cancelled":
                raise NoWorkersError(f"the Dask scheduler dropped {future.key}; is it still running?")
            else:  # the worker that held the result died before it was fetched: Dask computes it again
                self._watch(future)
        if self.uncommitted and self._commit_wait() <= 0:
            self._commit()

    def _wait(self) -> list[Future[Any]]:
        wait = LIVENESS_SECONDS if self.in_flight else 0.1
        if self.uncommitted:
            wait = min(wait, max(0.0, self._commit_wait()))
        ready = []
        with suppress(queue.Empty):
            ready.append(self.done.get(timeout=wait))
        while not self.done.empty():
            ready.append(self.done.get())
        if time.monotonic() - self.last_look > LIVENESS_SECONDS:
            self._look_at_cluster()
        return ready

    def _settle(self, tickets: list[_Ticket], items: list[Item]) -> None:
        for ticket, item in zip(tickets, items, strict=True):
            spent = sum(item.timings.values())
            self.case_seconds = spent if self.case_seconds is None else 0.9 * self.case_seconds + 0.1 * spent
            if item.failure and item.failure.transient and ticket.attempts - ticket.losses < self.retry.attempts:
                self._retry(self.again, ticket)
            else:
                self._finish(Outcome(ticket.case, item.value, item.failure, item.timings, ticket.attempts))

    def _suspect(self, tickets: list[_Ticket], future: Any) -> None:
        """Dask gave the task up, most often for a lost worker. Alone, a case answers for itself."""
        for ticket in tickets:
            if ticket.losses < 2:
                line = self.suspects if ticket.losses else self.again
                self._retry(line, replace(ticket, losses=ticket.losses + 1))
            else:
                self._finish(Outcome(ticket.case, None, Failure.of(future.exception()), {}, ticket.attempts))

    def _retry(self, line: deque[_Ticket], ticket: _Ticket) -> None:
        line.append(ticket)
        self.tally = replace(self.tally, retried=self.tally.retried + 1)

    def _finish(self, outcome: Outcome) -> None:
        if not self.uncommitted:
            self.oldest_uncommitted = time.monotonic()
        self.uncommitted.append(outcome)
        if outcome.failure:
            self.tally = replace(self.tally, failed=self.tally.failed + 1)
        else:
            self.tally = replace(self.tally, succeeded=self.tally.succeeded + 1)

    def _commit_wait(self) -> float:
        if len(self.uncommitted) >= self.lots.count:
            return 0.0
        return self.oldest_uncommitted + self.lots.seconds - time.monotonic()

    def _commit(self) -> None:
        if self.uncommitted:
            self.commit(list(self.uncommitted))
            self.uncommitted.clear()

    def _look_at_cluster(self) -> None:
        if self.client.status != "running":
            raise NoWorkersError(f"lost the Dask scheduler ({self.client.status}); start it and run again")
        self.threads = sum(self.client.nthreads().values())
        now = self.last_look = time.monotonic()
        if self.threads and (not self.needs_gpu or has_gpu_worker(self.client)):
            self.last_seen_workers = now
        elif now - self.last_seen_workers > self.patience:
            kind = "GPU workers" if self.needs_gpu and self.threads else "workers"
            raise NoWorkersError(
                f"the Dask scheduler has had no {kind} for {self.patience:g} s; start some and run again "
                "(a run that begins without GPU workers uses the CPU)"
            )


_END = object()


def has_gpu_worker(client: Client) -> bool:
    """Tell whether any worker has the resource that marks a GPU."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker["resources"].get(GPU_RESOURCE) for worker in workers)
