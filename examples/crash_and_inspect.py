"""A cell that dies of a segmentation fault, and a look at what it leaves.

You will see how it ended, the spans that were open, its last records and the line it died in, all read from the
post-mortem on disk; then the command that shows the same file in full.
"""

import ctypes

import roam


def decode(frame):
    with roam.span("decode", frame=frame):
        roam.info("reading the header", offset_bytes=frame * 4096)
        if frame == 2:
            roam.warning("this frame has no data", frame=frame)
            ctypes.string_at(0)


def play(path):
    with roam.span("play", path=path) as span:
        for frame in range(100):
            span.record(frame_count=frame)
            decode(frame)


def main():
    with roam.TracingHost(forward=False) as host:
        cell = roam.spawn_cell(play, "holiday.avi", name="player", host=host)
        try:
            cell.result(timeout=30)
        except roam.CellCrashed as crash:
            post_mortem = roam.postmortem.load(crash.dump_path)
    print(post_mortem.summary)
    print("open spans")
    for span in post_mortem.open_spans:
        print(f"  {span.name} {span.fields}")
    print("last records")
    for record in post_mortem.records[-3:]:
        print(f"  {record.kind}: {record.message} {dict(record.fields)}")
    print("stack, innermost first")
    for line in post_mortem.stacks.splitlines():
        if line.startswith("  File"):
            print(line)
    print(f"to see everything: roam show {post_mortem.path}")


if __name__ == "__main__":
    main()
