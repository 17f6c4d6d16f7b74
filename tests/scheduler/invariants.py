"""What must hold of a bench between any two calls."""

from __future__ import annotations

from collections import Counter

from ferrum_jax.types import TRASH_PAGE, RequestState, Schedule
from tests.scheduler.helpers import Bench, contents, extend, root


def check_all(bench: Bench) -> None:
    check_pages(bench)
    check_prefixes(bench)
    check_host(bench)
    check_sequences(bench)


def run_checked(bench: Bench) -> list[Schedule]:
    """Step until nothing is left to do, all accounts checked after each."""
    schedules = []
    while bench.scheduler.has_work:
        schedules.append(bench.step())
        check_all(bench)
    return schedules


def check_pages(bench: Bench) -> None:
    """Each page is free, idle in the cache or held as often as tables name it; never the trash."""
    blocks, pool = bench.blocks, bench.blocks.pool
    tables = [owner.blocks for owner in (*bench.sequences, *bench.snapshots)]
    holds = Counter(page for table in tables for page in table.pages)
    assert holds[TRASH_PAGE] == 0
    holds = +holds
    assert [pool.holders(page) for page in range(bench.num_pages)] == [
        holds.get(page, 0) for page in range(bench.num_pages)
    ]
    assert blocks.num_free == blocks.num_total - len(holds)
    idle = [p for p in range(bench.num_pages) if blocks.prefix and p in blocks.prefix]
    idle = [page for page in idle if page not in holds]
    assert blocks.prefix is None or blocks.prefix.num_idle == len(idle)
    assert sorted([*pool._free, *idle, *holds]) == list(range(1, bench.num_pages))


def check_prefixes(bench: Bench) -> None:
    """An entry per cached page and per digest; the page holds its tokens behind all before it."""
    if (prefix := bench.blocks.prefix) is None:
        return
    by_page, ends = prefix._by_page, {None: None}
    assert sorted(map(id, by_page.values())) == sorted(map(id, prefix._by_digest.values()))
    for page, entry in by_page.items():
        assert entry.page == page
        before = entry.before
        if before is not None:
            assert by_page[before.page] is before
            assert entry in before.after
            assert entry.salt == before.salt
        content = root(entry.salt) if before is None else ends[before]
        expected = [content := extend(content, token) for token in entry.tokens]
        assert bench.device.pages[page] == expected
        ends[entry] = content
        assert all(by_page.get(behind.page) is behind for behind in entry.after)


def check_host(bench: Bench) -> None:
    """Host memory holds what is swapped, and as much is counted."""
    blocks, host = bench.blocks, bench.device.host
    swapped = [sequence for sequence in bench.sequences if sequence.swapped]
    used = sum(blocks.pages_for(sequence.num_scheduled) for sequence in swapped)
    assert blocks.num_host_free + used == bench.num_host_pages
    leaving = [sequence for sequence, _ in bench.scheduler._swapped_out]
    assert {*host, *leaving} == set(swapped)
    for sequence, pages in host.items():
        found = [content for page in pages for content in page]
        known = contents(sequence.token_ids, sequence.request.cache_salt)
        count = min(sequence.num_scheduled, len(known))
        assert found[:count] == known[:count]


def check_sequences(bench: Bench) -> None:
    """State, slot and line agree, and pages hold what has been computed."""
    scheduler, device = bench.scheduler, bench.device
    running, waiting = set(scheduler.running), set(scheduler.waiting)
    slots = [sequence.slot for sequence in running]
    assert len(set(slots)) == len(slots)
    assert set(slots) | set(scheduler._free_slots) == set(range(bench.engine.max_num_seqs))
    for sequence in bench.sequences:
        state = sequence.state
        assert (sequence in running) == (state is RequestState.RUNNING)
        assert (sequence in waiting) == (state in (RequestState.WAITING, RequestState.PREEMPTED))
        assert (sequence.slot is not None) == (sequence in running)
        if sequence.finished:
            assert not sequence.blocks.pages
            continue
        assert 0 <= sequence.num_pending <= bench.engine.run_ahead * bench.engine.decode_steps
        assert sequence.num_tokens <= sequence.max_len <= bench.max_model_len
        if sequence.blocks.pages:
            assert len(sequence.blocks) >= bench.blocks.pages_for(sequence.num_scheduled)
            assert sequence.num_drafted <= bench.drafts[0] * sequence.num_pending
            device.check(sequence, sequence.blocks, sequence.num_scheduled - sequence.num_drafted)
        elif not sequence.swapped:
            assert sequence.num_scheduled == 0
    for snapshot in bench.snapshots:
        known = contents(snapshot.token_ids, snapshot.cache_salt)[: snapshot.num_scheduled]
        assert device.read(snapshot.blocks, snapshot.num_scheduled) == known
    assert set(scheduler._holders) <= {*waiting, *bench.snapshots}
    shares = {owner for owner in (*waiting, *bench.snapshots) if owner.blocks.pages}
    assert shares == {owner for owner in scheduler._holders if owner.blocks.pages}


def check_schedule(bench: Bench, schedule: Schedule) -> None:
    """Budgets of tokens and rows hold, and nobody is both in a step and out of it."""
    engine = bench.engine
    scheduled = [chunk.sequence for chunk in schedule.chunks]
    assert sum(c.length - c.steps + 1 for c in schedule.chunks) <= engine.max_num_batched_tokens
    assert all(chunk.length > 0 for chunk in schedule.chunks)
    assert len(set(scheduled)) == len(scheduled) <= engine.max_num_seqs
    assert set(schedule.admitted) <= set(scheduled)
    assert set(schedule.preempted) & set(scheduled) <= set(schedule.admitted)
    assert {s for s, _ in schedule.swapped_in} <= set(schedule.admitted)
    assert {s for s, _, _ in schedule.copies} <= set(scheduled)
    repeats = [chunk for chunk in schedule.chunks if chunk.steps > 1]
    assert not repeats or all(c.samples and c.length == c.steps for c in schedule.chunks)
    assert not repeats or not any(sequence.single_steps for sequence in scheduled)
    for chunk in schedule.chunks:
        sequence = chunk.sequence
        assert 1 <= chunk.steps <= engine.decode_steps
        assert chunk.start + chunk.length < sequence.max_len or not chunk.draft
        if sequence in schedule.admitted and not engine.chunked_prefill:
            work = len(sequence.token_ids) - chunk.start
            whole = chunk.samples or chunk.length == work
            assert whole or work > engine.max_num_batched_tokens
