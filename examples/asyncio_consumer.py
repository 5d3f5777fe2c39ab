"""An event loop that reads the records of three cells while they work.

You will see the records of all cells as they come, a heartbeat of the loop between them, and at the end how many
records were offered, received and dropped.
"""

import asyncio
import time

import roam


def cook(dish, steps):
    for step in range(1, steps + 1):
        with roam.span("step", number=step):
            time.sleep(0.05)
            roam.info("done", dish=dish, step=step)


async def close_after(cells, records):
    """End the subscription when all cells have ended. By then every record of theirs was offered to it."""
    for cell in cells:
        await asyncio.to_thread(cell.join)
    records.close()


async def beat():
    while True:
        print("  the loop is free")
        await asyncio.sleep(0.1)


async def main():
    with roam.TracingHost(forward=False) as host, host.subscribe("info") as records:
        cells = [roam.spawn_cell(cook, dish, 4, name=dish, host=host) for dish in ("soup", "pasta", "cake")]
        heart = asyncio.create_task(beat())
        closer = asyncio.create_task(close_after(cells, records))
        async for tagged in records:
            if tagged.record.kind == "event":
                print(f"{tagged.peer.name} (pid {tagged.peer.pid}): {tagged.record.message} {tagged.record.fields}")
        await closer
        heart.cancel()
        counts = records.statistics()
        print(f"{counts.offered} offered = {counts.received} received + {counts.dropped_by_queue} dropped")


if __name__ == "__main__":
    asyncio.run(main())
