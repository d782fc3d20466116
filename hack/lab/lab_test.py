"""What of the lab can be wrong without a network: bounds, rates, options, sums."""

from __future__ import annotations

import contextlib
import io
import unittest

from image import Image
from limits import _followed, _Sample
from measure import Measured
from network import Carried
from options import Options, parse
from pulls import Outcome
from result import Goals, bound, result

_SCENARIOS = {"at-once": "", "rolling": ""}


def _options(*arguments: str) -> Options:
    return parse(list(arguments), _SCENARIOS)


def _measured(*seconds: float | None, sent: int = 1000) -> Measured:
    outcomes = [Outcome(f"node{n}", time, 0.1, "" if time else "broke") for n, time in enumerate(seconds)]
    carried = {name: Carried(1000, 500) for name in ["middle", *(each.node for each in outcomes)]}
    machine = {"total_seconds": 4.0, "idle_seconds": 1.0, "softirq_seconds": 0.1, "busy_share": 0.75}
    return Measured(outcomes, 2.0, sent, carried, {"proxies": 1.0}, {"proxies": 30.0}, machine, [(1.0, 500.0, 500.0)])


class Bounds(unittest.TestCase):
    image = Image("1", 1, 100_000_000)

    def test_one_link_is_the_bound_of_ten_nodes(self) -> None:
        self.assertAlmostEqual(bound(_options(), self.image, 8.6), 8.6)

    def test_a_slow_source_is_the_bound(self) -> None:
        self.assertAlmostEqual(bound(_options("--registry-mbit", "50"), self.image, 8.6), 17.2)


class Results(unittest.TestCase):
    def test_says_what_was_missed(self) -> None:
        options, image = _options("--nodes", "2"), Image("1", 1, 1000)
        found = result(
            "at-once", "darter", options, image, _measured(3.0, None, sent=2000), alone=1.0, least=2.0, goals=Goals()
        )
        self.assertEqual(found["missed"], ["1 pull(s) failed", "1.5 times the bound, not 1.15", "2.0 origin copies, not 1.02"])
        self.assertEqual((found["last_seconds"], found["times"], found["by_node"]), (3.0, [3.0], {"node0": 3.0, "node1": None}))

    def test_waves_add_up(self) -> None:
        both = _measured(1.0).then(_measured(3.0))
        self.assertEqual((both.seconds, both.sent, both.cpu["proxies"], both.rss["proxies"]), (4.0, 2000, 2.0, 30.0))
        self.assertEqual(both.machine["busy_share"], 0.75)
        self.assertEqual(both.progress, [(1.0, 500.0, 500.0), (3.0, 500.0, 1000.0)])


class Limits(unittest.TestCase):
    def _samples(self, after: float) -> list[_Sample]:
        """100 bytes a second before the change at 2 s, `after` beginning a second later."""
        samples, passed = [], 0.0
        for tenth in range(60):
            samples.append(_Sample(tenth / 10, passed))
            passed += (100 if tenth < 30 else after) / 10
        return samples

    def test_tells_when_a_limit_was_followed(self) -> None:
        found = _followed(self._samples(50), 2.0, 50)
        self.assertIsNotNone(found["followed_seconds"])
        # At 3.0 s the rate changes; half a second later the window has seen only that, to a tenth.
        self.assertAlmostEqual(float(found["followed_seconds"] or 0), 1.5, delta=0.11)
        self.assertAlmostEqual(float(found["mean_after"] or 0), 50, delta=1)

    def test_a_raised_limit_has_to_be_reached(self) -> None:
        found = _followed(self._samples(200), 2.0, 200)
        self.assertAlmostEqual(float(found["followed_seconds"] or 0), 1.4, delta=0.11)
        self.assertIsNone(_followed(self._samples(150), 2.0, 200)["followed_seconds"])

    def test_tells_that_it_was_not(self) -> None:
        self.assertIsNone(_followed(self._samples(80), 2.0, 50)["followed_seconds"])


class Arguments(unittest.TestCase):
    def test_scenarios_come_once_and_in_order(self) -> None:
        self.assertEqual(_options("--scenario", "rolling,at-once", "--scenario", "all").scenarios, ["rolling", "at-once"])

    def test_a_mirror_takes_darters_place(self) -> None:
        self.assertEqual(_options("--mirror-url", "http://m").modes(), ["plain", "mirror"])

    def test_nonsense_is_refused(self) -> None:
        for arguments in (["--scenario", "none"], ["--nodes", "0"], ["--layers", "0"], ["--on-node", "x"]):
            with self.subTest(arguments), contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
                _options(*arguments)


if __name__ == "__main__":
    unittest.main()
