"""The stages that hold the chart against a table of cases are fed answers that are wrong, and must say so."""

import unittest

import big_numbers
import naming
import notes
import nulls
import refusals


class Process:
    def __init__(self, returncode, stderr):
        self.returncode, self.stderr, self.stdout = returncode, stderr, ""


class Tables(unittest.TestCase):
    def test_refusals(self):
        case = {"what": "x", "set": {"replicaCount": -1}, "says": "a/b"}
        for answer, wanted in (
            (Process(0, ""), ["installs this"]),
            (Process(1, "Error: it rained"), ['does not say "a/b"', "it rained"]),
            (Process(1, "Error: at '/a/b': no"), []),
            (Process(1, "Error: a.b: no"), []),
        ):
            found = refusals.judge(case, "HELM4", lambda *_, **__: answer)
            self.assertEqual(bool(wanted), bool(found))
            for part in wanted:
                self.assertIn(part, str(found[0]))

    def test_over(self):
        self.assertEqual({"a": {"b": 1, "c": 3}, "d": [2]}, refusals.over({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2]}))

    def test_notes(self):
        case = {"what": "x", "warns": ["no Redis"], "not": ["trusted"]}
        self.assertEqual([], list(notes.judge(case, "there is no Redis")))
        self.assertEqual(2, len(list(notes.judge(case, "it is trusted"))))

    def test_names(self):
        def faults(kind, name, **labels):
            thing = {"kind": kind, "metadata": {"name": name, "labels": labels}}
            return " ".join(map(str, naming.judge("here", [thing])))

        for kind, name in (("Service", "a.b"), ("Service", "1a"), ("Secret", "a-"), ("Pod", "a" * 64), ("Pod", True)):
            self.assertIn("name", faults(kind, name))
        for value in ("a.", "a" * 64, 1, None):
            self.assertIn("which is none", faults("Pod", "a", app=value))
        self.assertEqual("", faults("Service", "a-1", app="a_b.c") + faults("Secret", "a.b", app=""))

    def test_names_of_others(self):
        thing = {"kind": "Pod", "metadata": {"name": "x"}, "spec": {"serviceAccountName": 1e6}}
        self.assertIn("names 1000000.0", str(list(naming.judge("here", [thing]))[0]))

    def test_numbers(self):
        def faults(file, flags):
            return " ".join(map(str, big_numbers.judge("here", file, flags)))

        self.assertIn("renders a: 1e+06", faults("a: 1e+06", "a: 1e+06"))
        self.assertIn('renders a: "timeout=1.2e+07s"', faults('a: "timeout=1.2e+07s"', "a: 1"))
        self.assertIn("not render the same", faults("{kind: A, a: 1}", "{kind: A, a: 2}"))
        self.assertEqual("", faults("{kind: A, a: 1000000}", "{kind: A, a: 1000000}"))
        self.assertEqual(["a.b[0].c=1", "d=null", "e=x"], list(big_numbers.leaves({"a": {"b": [{"c": 1}]}, "d": None, "e": "x"})))
        self.assertEqual(65535, big_numbers.biggest(big_numbers.SCHEMA)["service"]["port"])

    def test_nulls(self):
        for process, wanted in (
            (Process(1, "x.yaml:1: nil pointer evaluating interface {}.a"), 1),
            (Process(1, "missing property 'a'"), 0),
            (Process(1, "execution error at (x): error calling fail: a: is empty"), 0),
            (Process(0, ""), 0),
        ):
            self.assertEqual(wanted, len(nulls.judge(("a", "b"), process)))
        self.assertEqual([("a",), ("a", "b"), ("c",)], list(nulls.headings({"a": {"b": []}, "c": [], "d": 1})))

    def test_notes_that_do_not_come(self):
        self.assertIn("printed no notes", notes_fault := notes.notes_with({"replicaCount": "x"})[1], notes_fault)


if __name__ == "__main__":
    unittest.main()
