"""Hypothesis drives a cell over a pipe, kills it whenever it likes, and compares what it leaves with a list.

You will see how many cells were killed: in no post-mortem was a command missing that had been acknowledged.
"""

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from multiprocess import Pipe

import roam

totals = {"killed": 0, "acknowledged": 0}


def serve(pipe):
    for text in iter(pipe.recv, None):
        roam.info("command", text=text)
        pipe.send("acknowledged")


class Ledger(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.host = roam.TracingHost(forward=False)
        self.hire()

    def hire(self):
        self.acknowledged = []
        self.pipe, cells_end = Pipe()
        self.cell = roam.spawn_cell(serve, cells_end, host=self.host)

    @rule(text=strategies.text())
    def command(self, text):
        self.pipe.send(text)
        assert self.pipe.recv() == "acknowledged"
        self.acknowledged.append(text)
        totals["acknowledged"] += 1

    @rule(unanswered=strategies.lists(strategies.text(), max_size=3))
    def kill(self, unanswered):
        for text in unanswered:
            self.pipe.send(text)
        self.bury(unanswered)
        self.hire()

    def bury(self, unanswered):
        self.cell.kill()
        self.cell.join(timeout=30)
        found = [record.fields["text"] for record in self.cell.post_mortem.records if record.kind == "event"]
        assert found == (self.acknowledged + unanswered)[: max(len(found), len(self.acknowledged))]
        totals["killed"] += 1

    def teardown(self):
        self.bury([])
        self.host.close()


if __name__ == "__main__":
    run_state_machine_as_test(Ledger, settings=settings(max_examples=10, deadline=None, database=None))
    print(f"{totals['killed']} cells killed, {totals['acknowledged']} commands acknowledged, none missing")
