"""Post-mortems: the file, what is left of it when it is damaged, and the text that people read."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from roam.errors import DumpError
from roam.exit import CellExit, ExitKind
from roam.postmortem import PostMortem, check_dump_dir, default_dump_dir, load, write
from roam.postmortem.directory import newest_dump
from roam.postmortem.document import document, json_text
from roam.postmortem.escape import escape, escape_json, unescape
from roam.postmortem.format import MOST_BYTES, decode, encode
from roam.postmortem.plain import plain
from roam.postmortem.spantree import span_lines
from roam.postmortem.stacks import crash_site
from roam.postmortem.units import calendar, duration, size
from roam.shm.layout import BULK
from roam.shm.reader import Chunk
from roam.stage import ExceptionText, Stage
from roam.tracing.records import Lost
from roam.tracing.statistics import LaneStatistics, PeerStatistics
from tests.remains import (
    FAULT_TEXT,
    SECOND,
    WALL_NS,
    enter,
    event,
    leave,
    make_exit,
    make_remains,
    make_span,
)

HOSTILE = "\x1b]52;c;aGk=\x07\x1b[2J\r\x00\x9b31m\u202e\u2066\u2028\u200b\ufeff\u061c\x7f\\ é 漢"
ANY_TEXT = st.text(st.characters(codec=None) | st.sampled_from(HOSTILE), max_size=60)


def dump_bytes(remains=None, exit=None, facts=None) -> bytes:
    return b"".join(encode(remains or make_remains(), exit or make_exit(), facts or {}))


def small_dump() -> bytes:
    """A dump with something in every section."""
    bodies = [event(20, f"message {number}", {"number": number}) for number in range(3)]
    return dump_bytes(
        make_remains(
            [*bodies, event(40, "bad")],
            lost=[Lost("bulk", 7, 2, "overwritten", WALL_NS)],
            open_spans=[make_span(1, "resize")],
            fault_text=FAULT_TEXT[:60],
            stderr_tail=b"oh no\n",
            header={},
        ),
        make_exit(evidence=()),
    )


def post_mortem(data: bytes) -> PostMortem:
    decoded = decode(data, "x")
    return PostMortem.of(decoded.remains, decoded.exit, decoded.facts, damage=decoded.damage)


def messages(pm: PostMortem) -> list[str]:
    return [record.message for record in pm.records if record.kind != "lost"]


# The file


def test_what_is_written_is_read_back(tmp_path):
    """Everything in a dump comes back as it was, records in time order over all lanes."""
    # r[verify dump.write.atomic]
    remains = make_remains(
        [event(20, "one", {"size": 3}), event(30, "two"), enter(1, "job"), event(20, "three", exception=None)],
        lost=[Lost("bulk", 0, 5, "overwritten", WALL_NS - SECOND)],
        open_spans=[make_span(1, "job", fields={"n": 1, "raw": b"\xff"})],
        fault_text=FAULT_TEXT,
        stderr_tail=b"caf\xc3\xa9 \xff\n",
    )
    exit = make_exit(exception=ExceptionText("ValueError", "no", "Traceback\nValueError: no"), evidence=("a", "b"))
    path = write(remains, exit, {"threads": 3, "odd": {1, 2}, "max_rss_bytes": 2**70}, tmp_path)
    pm = load(path)

    assert pm.exit == exit
    assert pm.peer == remains.peer
    assert [record.message for record in pm.records][1:] == ["one", "two", "job", "three"]
    assert pm.records == remains.records()
    assert pm.open_spans == remains.open_spans
    assert pm.statistics == remains.statistics
    assert (pm.config, pm.stage, pm.died_ns, pm.header) == (
        remains.config,
        remains.stage,
        remains.died_ns,
        remains.header,
    )
    assert pm.stacks == FAULT_TEXT.decode()
    assert pm.stderr_tail == "café \\xff\n"
    assert pm.facts == {"threads": 3, "odd": [1, 2], "max_rss_bytes": hex(2**70)}
    assert pm.damage == []
    assert pm.path == path


def test_the_object_made_in_memory_is_that_of_the_file(tmp_path):
    """`PostMortem.of` and `load` of what `write` wrote differ in the path only."""
    remains = make_remains([event(20, "one")], stderr_tail=b"x")
    loaded = load(write(remains, make_exit(), {"a": 1}, tmp_path))
    loaded.path = None

    assert loaded == PostMortem.of(remains, make_exit(), {"a": 1})


def test_a_dump_without_standard_output_is_sound():
    """Older ones have no such section."""
    pieces = list(encode(make_remains([event(20, "one")], stdout_tail=b"x"), make_exit(), {}))
    [at] = [index for index, piece in enumerate(pieces) if piece[16:32].rstrip(b"\0") == b"stdout"]
    decoded = decode(b"".join(pieces[:at] + pieces[at + 2 :]), "old")

    assert decoded.damage == []
    assert decoded.remains.stdout_tail == b""
    assert [record.message for record in decoded.remains.records()] == ["one"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([20, 30]), ANY_TEXT, st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=3)), max_size=8
    ),
    ANY_TEXT,
    ANY_TEXT,
    st.binary(max_size=200),
)
def test_any_text_survives_the_file(rows, name, verdict, stderr):
    """Whatever the cell wrote, the dump is sound and its records are those that the remains hold."""
    remains = make_remains(
        [event(level, message, dict(fields)) for level, message, fields in rows],
        name=name,
        config=verdict,
        stderr_tail=stderr,
        open_spans=[make_span(1, "s", fields={"f": [verdict.encode("utf-8", "replace").decode()]})],
    )
    pm = post_mortem(dump_bytes(remains, make_exit(verdict=verdict), {name: verdict}))

    assert pm.damage == []
    assert pm.records == remains.records()
    assert pm.peer.name == plain(name)
    assert pm.exit.verdict == plain(verdict)


def test_names_sort_by_time_and_are_safe(tmp_path):
    """A dump is named by time of death, cell and process; nothing in a name can leave the directory."""
    later = write(make_remains(name="../../\x1b[0m x", died_ns=WALL_NS + 5), make_exit(), {}, tmp_path)
    earlier = write(make_remains(name="", pid=None, died_ns=WALL_NS), make_exit(), {}, tmp_path)

    assert later.parent == tmp_path
    assert re.fullmatch(r"20250131T120000\.\d{6}Z-[A-Za-z0-9_.]+-1234\.roam", later.name)
    assert earlier.name == "20250131T120000.000000Z-cell-0.roam"
    assert newest_dump(tmp_path) == max(earlier, later)
    assert stat.S_IMODE(later.stat().st_mode) == 0o600


def test_no_dump_replaces_another(tmp_path):
    """Two deaths of one name, process and moment are two files."""
    paths = [write(make_remains([event(20, str(number))]), make_exit(), {}, tmp_path) for number in range(3)]

    assert len(set(paths)) == 3
    assert [messages(load(path)) for path in paths] == [["0"], ["1"], ["2"]]
    assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in paths)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    """When the disk is full in the middle there is a typed error, and neither a dump nor a part of one."""
    real, calls = os.write, []

    def full_disk(file, data):
        calls.append(len(data))
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        return real(file, data)

    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(DumpError, match="No space left"):
        write(make_remains([event(20, "x")]), make_exit(), {}, tmp_path)

    assert [] == os.listdir(tmp_path)


def test_a_missing_directory_is_a_typed_error(tmp_path):
    """A dump directory that is gone when it is needed is said as such."""
    with pytest.raises(DumpError, match="could not be written"):
        write(make_remains(), make_exit(), {}, tmp_path / "gone")


def test_short_writes_are_continued(tmp_path, monkeypatch):
    """A file system that takes a few bytes at a time gets all of them."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:7]))

    assert messages(load(write(make_remains([event(20, "whole")]), make_exit(), {}, tmp_path))) == ["whole"]


# Damage


def test_every_truncation_gives_what_is_left():
    """A dump cut off anywhere is either shown with what is left and the fact said, or refused with the typed error."""
    # r[verify dump.load.tolerant]
    data = small_dump()
    whole = post_mortem(data)
    refused = 0
    for length in range(len(data)):
        try:
            pm = post_mortem(data[:length])
        except DumpError:
            refused += 1
            continue
        assert pm.damage, length
        assert messages(pm) == messages(whole)[: len(messages(pm))] or set(messages(pm)) < set(messages(whole))
        pm.render()

    # The first section says whose remains these are; from then on nothing is refused.
    assert refused < len(data) / 2


def test_every_damaged_byte_is_noticed_and_costs_little():
    """Each single flipped bit is either harmless and said, or refused with the typed error where the magic is gone."""
    data = small_dump()
    whole = post_mortem(data)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        try:
            pm = post_mortem(bytes(damaged))
        except DumpError:
            assert at < 8, "only the magic cannot be done without"
            continue
        assert pm.damage, at
        assert pm.exit == whole.exit
        assert set(messages(pm)) <= set(messages(whole)), at
        assert pm.open_spans in (whole.open_spans, []), at
        pm.render()


def test_a_damaged_record_costs_no_other():
    """Of a page with one flipped byte all other records are still there."""
    data = bytearray(dump_bytes(make_remains([event(20, f"message {number}") for number in range(9)])))
    data[data.index(b"message 4")] ^= 1
    pm = post_mortem(bytes(data))

    assert messages(pm) == [f"message {number}" for number in range(9) if number != 4]
    assert len(pm.damage) == 1


@pytest.mark.parametrize("missing", [1, 8, 100])
def test_bytes_missing_in_a_section_cost_no_other(missing):
    """Where a section is shorter than its head says, the sections behind it are found all the same."""
    # r[verify dump.load.tolerant]
    remains = make_remains(
        [event(20, f"message {number}") for number in range(9)],
        fault_text=b"f" * 300,
        stderr_tail=b"the last words",
        open_spans=[make_span(1, "job")],
    )
    data = dump_bytes(remains)
    at = data.index(b"f" * 300)
    pm = post_mortem(data[:at] + data[at + missing :])

    assert pm.stderr_tail == "the last words"
    assert [span.name for span in pm.open_spans] == ["job"]
    assert len(messages(pm)) == 9
    assert len(pm.damage) == 1


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=12), st.integers(0, 12)), min_size=1, max_size=4),
    st.integers(0, 3000),
)
def test_no_damage_raises_anything_but_the_typed_error(edits, keep):
    """Bytes put in, taken out and overwritten anywhere give a post-mortem that can be shown, or `DumpError`."""
    data = bytearray(small_dump())
    for at, new, gone in edits:
        data[at % len(data) : at % len(data) + gone] = new
    if keep > 1000:
        del data[keep:]
    try:
        pm = post_mortem(bytes(data))
    except DumpError:
        return

    pm.render(last=None, color=True)
    json_text(document(pm))


def test_claimed_sizes_are_not_believed():
    """A section that claims ten gigabytes costs itself, and is shown as cut off where it is the last one."""
    import struct
    from zlib import crc32

    data = small_dump()
    head = bytearray(data[32:80])
    head[32:40] = struct.pack("<Q", 10 << 30)
    head[44:48] = struct.pack("<I", crc32(head[:44]))
    # The claim covers all the other sections, and costs none of them.
    found = decode(data[:32] + bytes(head) + data[80:], "x")
    assert found.remains.peer.name == "parser"
    assert ["section meta at 32 is damaged"] == found.damage

    head[16:32] = b"fault".ljust(16, b"\0")
    head[44:48] = struct.pack("<I", crc32(head[:44]))
    damage = decode(data + bytes(head) + b"few", "x").damage
    assert any("cut off" in text for text in damage)


def test_a_cell_cannot_forge_a_section():
    """Bytes that look like a section inside a record do not become one when the file is damaged."""
    forged = dump_bytes(make_remains(name="forged"))
    data = bytearray(dump_bytes(make_remains([event(20, "x", {"forged": forged})])))
    data[32 + 20] ^= 1

    assert post_mortem(bytes(data)).peer.name == "parser"


def test_another_version_is_refused_by_name():
    """A dump of a later format says which version it has."""
    from zlib import crc32

    data = bytearray(small_dump())
    data[8] = 9
    data[12:16] = crc32(data[8:12] + data[16:32]).to_bytes(4, "little")
    with pytest.raises(DumpError, match="format 9"):
        decode(bytes(data), "x")


def test_only_bounded_regular_files_are_read(tmp_path):
    """A directory, a FIFO, a huge file, a missing one and an impossible name are typed errors, at once."""
    fifo, huge = tmp_path / "fifo.roam", tmp_path / "huge.roam"
    os.mkfifo(fifo)
    with open(huge, "wb") as file:
        file.truncate(MOST_BYTES + 1)
    for path in (tmp_path, fifo, huge, tmp_path / "none.roam", "a\0b"):
        with pytest.raises(DumpError):
            load(path)


def test_what_does_not_fit_is_counted():
    """Chunks beyond the size limit are left out, those of the bulk lane first and the oldest first, and counted."""
    big = b"\0" * (96 << 20)
    chunks = [Chunk(0, 1, 0, 1, b"")] + [Chunk(BULK, page, page, 1, big) for page in range(1, 4)]
    kept = b"".join(piece for piece in encode(make_remains(chunks=chunks), make_exit(), {}) if len(piece) < 1 << 20)

    assert [(lost.lane, lost.first_seq, lost.count, lost.cause) for lost in decode(kept, "x").remains.lost] == [
        ("bulk", 1, 1, "dump_full")
    ]


# The directory


def test_the_default_directory_follows_roam_dir(monkeypatch, tmp_path):
    """`ROAM_DIR` moves the dumps; without it they are in the user's state directory."""
    monkeypatch.setenv("ROAM_DIR", str(tmp_path))
    assert default_dump_dir() == tmp_path / "dumps"

    monkeypatch.delenv("ROAM_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert default_dump_dir() == tmp_path / "state" / "roam" / "dumps"


def test_a_directory_is_made_private_and_left_empty(tmp_path):
    """The check creates the directory for its owner only and leaves no file in it; a second check changes nothing."""
    # r[verify dump.directory.proved]
    found = check_dump_dir(tmp_path / "a" / "dumps")

    assert found == check_dump_dir(found)
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert [] == os.listdir(found)


def test_an_unusable_directory_is_said_at_once(tmp_path, monkeypatch):
    """A file, a dangling link, a directory below a file and a full disk are typed errors with a remedy."""
    file = tmp_path / "file"
    file.write_text("")
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "none")
    for path in (file, dangling, file / "below", "/proc/roam-dumps"):
        with pytest.raises(DumpError, match="ROAM_DIR"):
            check_dump_dir(path)

    def full_disk(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(DumpError, match="No space left"):
        check_dump_dir(tmp_path / "full")
    assert [] == os.listdir(tmp_path / "full")


def test_a_link_of_another_user_is_refused(tmp_path, monkeypatch):
    """A dump directory that is a symbolic link must be one's own or root's."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    check_dump_dir(link)
    os.chown(link, 12345, 12345, follow_symlinks=False) if os.geteuid() == 0 else monkeypatch.setattr(
        os, "geteuid", lambda: 12345
    )
    with pytest.raises(DumpError, match="symbolic link"):
        check_dump_dir(link)


# Escaping


@given(st.text(st.characters(codec=None)))
@example(HOSTILE)
@example("\ud800\udfff\U000e0041\U0001d173")
@example("C:\\new\\x41")
def test_escaping_is_safe_and_reversible(text):
    """What `escape` returns is one printable line, and `unescape` gives the original back."""
    # r[verify dump.render.escape]
    safe = escape(text)

    assert unescape(safe) == text
    for character in safe:
        assert character >= " "
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(character) not in (
            "LRE",
            "RLE",
            "PDF",
            "LRO",
            "RLO",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        )
        assert character not in "\u200b\u200c\u200d\u200e\u200f\u061c\ufeff\u2060\x7f"


@given(
    st.recursive(
        ANY_TEXT | st.floats() | st.binary(max_size=5) | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    )
)
def test_json_is_safe_and_means_the_same(value):
    """The JSON text has no character that a terminal acts on, and decodes to what went in."""
    text = json_text({"value": value})

    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", text
    )
    assert msgspec.json.decode(text).keys() == {"value"}
    assert msgspec.json.decode(escape_json('"\U000e0041\u202e"')) == "\U000e0041\u202e"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_nothing_from_the_cell_reaches_the_terminal(one, other, third):
    """Wherever a text of the cell stands, the rendering has no control character but line feeds, and no forged line."""
    pm = post_mortem(
        dump_bytes(
            make_remains(
                [event(20, one, {other: third, "nested": [one, {other: third}]}, target=other), enter(1, one)],
                name=one,
                config=other,
                open_spans=[make_span(1, one, target=other, fields={third: other})],
                stderr_tail=third.encode("utf-8", "surrogatepass"),
                fault_text=f'Fatal Python error: {one}\nCurrent thread 0x1 (most recent call first):\n  File "{other}", line 1 in {third}'.encode(
                    "utf-8", "surrogatepass"
                ),
                header={one: other},
                segment_path=third,
            ),
            make_exit(
                verdict=one,
                evidence=(other,),
                exception=ExceptionText(one[:40], other, third),
                signal=None,
                kind=ExitKind.RAISED,
            ),
            {other: one},
        )
    )
    text = pm.render()

    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", text
    )
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", pm.summary)


# Rendering


def crashed() -> PostMortem:
    """A cell that was killed by SIGSEGV inside two nested spans."""
    remains = make_remains(
        [
            event(20, "started", {"files": 2}),
            enter(1, "job"),
            enter(2, "file", parent=1),
            event(30, "odd\nline", {"path": "a b.py", "n": None}, span=2),
            leave(7, "read"),
        ],
        open_spans=[make_span(2, "file", parent=1, fields={"path": "x.py"}, age_ns=312_400_000), make_span(1, "job")],
        fault_text=FAULT_TEXT,
        stderr_tail=b"first\n\x1b[31msecond\n",
    )
    return PostMortem.of(remains, make_exit(), {"open_files": 3, "swap_bytes": 2048})


def test_the_text_tells_the_story_in_order():
    """Header, process, losses, config, stderr, records, spans, stacks, and the cause at the very end."""
    # r[verify dump.render.cause]
    text = crashed().render()
    landmarks = [
        'Post-mortem of cell "parser" (peer 3, epoch 1), pid 1234',
        "started 2025-01-31 12:00:00.000 UTC, ended 2025-01-31 12:00:10.000 UTC, after 10 s",
        "\nprocess\n",
        "max rss         40 MiB",
        "swap            2 KiB",
        "\nlosses\n  nothing lost\n",
        "\nconfig in force\n  info,app.db=debug\n",
        "\nend of stderr\n  | first\n  | \\x1b[31msecond\n",
        "\nrecords, all 5\n  2025-01-31 (UTC)\n",
        "  12:00:00.001  INFO      app  started  files=2\n",
        "  12:00:00.002  INFO      app  > job  n=1\n",
        '  12:00:00.004  WARNING   app  odd\\nline  path="a b.py" n=None  in file\n',
        "  12:00:00.005  INFO      app  < read  (312 ms)\n",
        "\nopen spans, outermost first\n",
        "     9 s  job  app, since 12:00:01.000\n",
        "  312 ms    file  path=x.py  app, since 12:00:09.687  <- executing\n",
        "\nstacks at the fatal signal\n  | Fatal Python error: Segmentation fault\n",
        '\ncell "parser" killed with SIGSEGV (signal 11) in stage run, at /home/user/crash \\\\xe9.py:12 in boom,',
        " in span file, open for 312 ms\n",
        "  evidence: signal 11\n",
        "verdict: crashed in native code\n",
    ]
    places = [text.find(landmark) for landmark in landmarks]

    assert -1 not in places, landmarks[places.index(-1)] + "\n" + text
    assert places == sorted(places)
    assert text.endswith(landmarks[-1])
    assert text.isascii()


def test_an_exception_stands_last():
    """The target's own traceback comes after everything else, line by line behind a bar, and is not told twice."""
    exception = ExceptionText("ValueError", "no\nfile", "Traceback:\n  File x\nValueError: no\nfile")
    other = ExceptionText("KeyError", "key", "Traceback:\n  File y\nKeyError: key")
    pm = PostMortem.of(
        make_remains([event(40, "failed", exception=other), event(50, "uncaught", exception=exception)]),
        make_exit(kind=ExitKind.RAISED, signal=None, exception=exception, verdict="raised", evidence=()),
        {},
    )

    text = pm.render()

    assert text.endswith(
        "\nexception\n  | Traceback:\n  |   File x\n  | ValueError: no\n  | file\n\n"
        'cell "parser" raised ValueError: no\nverdict: raised\n'
    )
    assert "app  failed\n      | Traceback:\n      |   File y\n      | KeyError: key\n" in text
    assert "app  uncaught\n      (the traceback stands at the end)\n" in text
    assert text.count("File x") == 1


def test_paths_that_lead_nowhere_are_not_shown():
    """The segment is named where it is all there is; once there is a dump, it is gone."""
    pm = crashed()
    kept = pm.render()
    pm.path = Path("/dumps/1.roam")

    assert f"\n  segment {pm.segment_path}\n" in kept
    assert "\n  dump /dumps/1.roam\n\n" in pm.render()


def test_facts_are_short():
    """Of numbers that only tell an order of magnitude two decimals are shown, and of empty lists nothing."""
    text = PostMortem.of(make_remains(), make_exit(), {"machine_load": [0.123456, 1.0], "host_steps": []}).render()

    assert re.search(r"^  machine load +\[0\.12, 1\.0\]$", text, re.MULTILINE)
    assert "host steps" not in text


def test_losses_are_told_by_lane_and_cause():
    """Every count that is not zero is there with its lane and cause, and no zero is."""
    # r[verify dump.render.losses]
    statistics = PeerStatistics(
        lanes={
            "life": LaneStatistics(emitted=2, delivered=2, lost=0, resident=0),
            "vital": LaneStatistics(emitted=9, delivered=2, lost=7, resident=0, dropped={"oversize": 0}),
            "bulk": LaneStatistics(emitted=9, delivered=2, lost=1207, resident=0, dropped={"nested": 4}),
        },
        spans_overflowed=3,
        evicted=1000,
    )
    lost = [Lost("bulk", 0, 1200, "overwritten"), Lost("bulk", 1300, 7, "corrupt"), Lost("bulk", None, 4, "nested")]
    text = PostMortem.of(make_remains(lost=lost, statistics=statistics), make_exit(), {}).render()

    section = text.partition("\nlosses\n")[2].partition("\n\n")[0]
    assert section.splitlines() == [
        "  vital: 7 lost, cause not in this file",
        "  bulk: 1,200 overwritten",
        "  bulk: 7 corrupt",
        "  bulk: 4 dropped before writing: nested",
        "  3 spans had no room in the open-span table",
        "  1,000 older records had left the host's memory before the end",
    ]


def test_the_number_of_records_can_be_chosen():
    """`last` shows that many of the newest records and says how many there are; None shows all."""
    pm = PostMortem.of(make_remains([event(20, f"message-{number}") for number in range(70)]), make_exit(), {})

    assert "records, last 50 of 70" in pm.render()
    assert "message-19 " not in pm.render().replace("\n", " \n")
    assert "message-20\n" in pm.render()
    assert "records, all 70" in pm.render(last=None)
    assert "records, last 0 of 70\n  none\n" in pm.render(last=0)


def test_color_changes_nothing_but_color():
    """Without its colour codes the coloured text is the plain one."""
    pm = crashed()
    colored = pm.render(color=True)

    assert "\x1b[31m" in colored
    assert re.sub(r"\x1b\[\d+m", "", colored) == pm.render()


def test_damage_is_told():
    """A damaged dump says so at the top, a badly damaged one in a few lines."""
    pm = PostMortem.of(make_remains(), make_exit(), {}, damage=[f"section {number} \x1b" for number in range(50)])

    assert "\ndamage\n  section 0 \\x1b\n" in pm.render()
    assert "\n  and 30 more\n" in pm.render()


def test_numbers_that_are_no_dates_are_shown():
    """Times that no calendar knows, and counts of any size, do not stop the rendering."""
    exit = make_exit(started_ns=-(2**62), ended_ns=2**63, max_rss_bytes=2**63, cpu_s=float("inf"))
    pm = PostMortem.of(
        make_remains(died_ns=2**63, pid=None, open_spans=[make_span(1, "x", age_ns=-5)]), exit, {"x_s": float("nan")}
    )

    assert "cpu" in pm.render()
    assert str(2**63) not in duration(2**63)


# Spans


def test_spans_stand_below_their_parents():
    """Parents come first, older before younger, and the innermost one of each thread was executing."""
    spans = [
        make_span(4, "other", thread=2),
        make_span(3, "inner", parent=2),
        make_span(2, "middle", parent=1),
        make_span(1, "outer", parent=99),
    ]

    assert [(line.span.name, line.depth, line.state) for line in span_lines(spans)] == [
        ("outer", 0, ""),
        ("middle", 1, ""),
        ("inner", 2, "executing"),
        ("other", 0, "executing"),
    ]


def test_suspended_and_waiting_spans_are_told_apart():
    """A generator's span that was left was not executing; of several tasks on one thread only one can have been."""
    spans = [
        make_span(1, "outer"),
        make_span(2, "generator", parent=1),
        make_span(3, "task", thread=2),
        make_span(4, "task", thread=2),
    ]
    states = [line.state for line in span_lines(spans, {spans[1].span_id})]

    assert states == ["executing", "suspended", "executing or waiting", "executing or waiting"]


def test_a_yielding_generator_is_suspended():
    """The last record of a span says whether it was left."""
    remains = make_remains(
        [enter(1, "generator"), leave(1, "generator", is_closed=False)], open_spans=[make_span(1, "generator")]
    )

    assert "<- suspended" in PostMortem.of(remains, make_exit(), {}).render()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2)), max_size=12))
def test_every_span_is_shown_once(rows):
    """Ids that repeat, or that are each other's ancestors, neither hide a span nor show it twice."""
    spans = [make_span(number, "s", parent=parent, thread=thread) for number, parent, thread in rows]
    lines = span_lines(spans)

    assert sorted(map(id, spans)) == sorted(id(line.span) for line in lines)


# Stacks


def test_the_crash_site_is_the_innermost_frame_of_the_current_thread():
    """File, line and function of a fatal signal are found behind the other threads."""
    # r[verify dump.crash.site]
    assert crash_site(FAULT_TEXT.decode()) == ("/home/user/crash \\xe9.py", 12, "boom")
    assert crashed().crash_site == ("/home/user/crash \\xe9.py", 12, "boom")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ('Current thread 0x1 (most recent call first):\n  File "a.py", line 1 in f\n', None),
        ("Fatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n  <no Python frame>\n", None),
        (
            (
                "Fatal Python error: Aborted\n\nCurrent thread 0x1 [worker] (most recent call first):\n"
                '  File "a "b", line 2.py", line 7 in C.f.<locals>.<lambda>\n'
            ),
            ('a "b", line 2.py', 7, "C.f.<locals>.<lambda>"),
        ),
        ("Fatal Python error: X\nStack (most recent call first):\n  File ???, line ??? in ???\n", ("???", None, "???")),
        (
            (
                'Timeout\nCurrent thread 0x1 (most recent call first):\n  File "old.py", line 1 in old\n'
                'Fatal Python error: Bus error\nThread 0x2 (most recent call first):\n  File "x", line 3 in y\n'
            ),
            None,
        ),
    ],
)
def test_crash_sites_of_unusual_texts(text, expected):
    """Stacks without a fatal error, without a current thread or without frames name no culprit."""
    assert crash_site(text) == expected


def test_a_real_fault_is_understood(tmp_path):
    """What this interpreter's own faulthandler writes for an abort is parsed."""
    from tests.support import run_script

    script = tmp_path / "crash.py"
    script.write_text("import faulthandler, os\nfaulthandler.enable()\ndef boom():\n    os.abort()\nboom()\n")
    text = run_script(script, check=False).stderr

    assert crash_site(text) == (str(script), 4, "boom")


@given(
    st.text(st.sampled_from('Fatal Python error: \nCurrent thread (most recent call first):\n  File "a", line 1 in f'))
)
def test_no_text_stops_the_parser(text):
    """Any text gives a site or None."""
    crash_site("Fatal Python error: " + text)


# Values


class Broken:
    def __repr__(self):
        raise RuntimeError("no")


def test_any_fact_can_be_written():
    """Facts of any type become plain values; none keeps the dump from being written."""
    loop: list[object] = []
    loop.append(loop)
    facts = {"broken": Broken(), "loop": loop, "big": -(2**80), "surrogate": "\ud800", "stage": Stage.RUN, 5: {7: {8}}}
    pm = post_mortem(dump_bytes(facts=facts))

    assert pm.facts["broken"] == "<Broken: cannot be read>"
    assert pm.facts["big"] == hex(-(2**80))
    assert pm.facts["surrogate"] == "\\ud800"
    assert pm.facts["stage"] == 4
    assert pm.facts["5"] == {"7": [8]}
    pm.render()


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (12_300, "12.3 us"),
        (312_400_000, "312 ms"),
        (999_600_000, "1 s"),
        (59_990_000_000, "1 min 0 s"),
        (312 * SECOND, "5 min 12 s"),
        (11_100 * SECOND, "3 h 5 min"),
        (183_600 * SECOND, "2 d 3 h"),
        (-SECOND, "-1 s"),
    ],
)
def test_durations_are_humane(ns, text):
    """A duration has the two or three digits that matter, and its unit."""
    assert duration(ns) == text


def test_sizes_and_times_are_humane():
    """Sizes have binary units, times are UTC with milliseconds."""
    assert [size(n) for n in (812, 12_600, 40 << 20, 3 << 40)] == ["812 bytes", "12.3 KiB", "40 MiB", "3 TiB"]
    assert calendar(WALL_NS + 312_999_999) == "2025-01-31 12:00:00.312 UTC"


def test_the_document_holds_everything():
    """The JSON form has every record with every attribute, the spans, the crash site and the exit in words."""
    found = msgspec.json.decode(json_text(document(crashed())))

    assert found["crash_site"] == {"file": "/home/user/crash \\xe9.py", "line": 12, "function": "boom"}
    assert found["exit"]["kind"] == "signaled"
    assert found["exit"]["stage"] == "run"
    assert [record["message"] for record in found["records"]] == ["started", "job", "file", "odd\nline", "read"]
    assert found["records"][1]["span_id"] == "0000000000000001"
    assert found["open_spans"][0]["fields"] == {"path": "x.py"}
    assert found["peer"] == {"peer_id": 3, "epoch": 1, "name": "parser", "pid": 1234}


def test_importing_the_package_is_cheap():
    """`roam.postmortem` loads nothing until something is asked of it."""
    from tests.support import run_script

    script = "import sys, roam.postmortem; print('msgspec' in sys.modules, 'roam.postmortem.file' in sys.modules)"
    assert run_script("-c", script).stdout.split() == ["False", "False"]


def test_a_normal_type_is_exported():
    """The names of the package are what they say."""
    assert isinstance(post_mortem(small_dump()), PostMortem)
    assert isinstance(post_mortem(small_dump()).exit, CellExit)
    assert isinstance(default_dump_dir(), Path)
