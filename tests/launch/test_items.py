"""What an array runs over, and every way in which it is refused."""

from pathlib import Path

import pytest

from skyframe.launch.array import plan_again, plan_array
from skyframe.launch.array_script import tasks_of
from skyframe.launch.items import read_items
from skyframe.spec import InputError
from tests.data.cubes import tiny_cube
from tests.launch.clusters import LOCAL, MINI, cluster_file

VERIFY = ("verify", "{item}")
INGEST = ("ingest", "geotiff", "scenes.yaml", "cubes/x")
GPUS = MINI + "gpus_per_node: 8\nexclusive: true\n"


def test_a_number_is_that_many_parts(tmp_path: Path):
    assert read_items("3", tmp_path).texts == ("1/3", "2/3", "3/3") and read_items("3", tmp_path).parts


def test_lists_and_globs_by_hand(tmp_path: Path):
    (tmp_path / "list").write_text("# two\n b a\n\ns3://x/c\n")
    assert read_items("list", tmp_path).texts == ("b a", "s3://x/c")
    for name in ("z", "y", "x.partial"):
        (tmp_path / "cubes" / name).mkdir(parents=True)
    found = read_items("cubes/*", tmp_path)
    assert found.texts == ("cubes/y", "cubes/z") and not found.parts
    assert read_items(f"{tmp_path}/cubes/*", Path("/")).texts == (f"{tmp_path}/cubes/y", f"{tmp_path}/cubes/z")


def test_items_with_commas_a_folder_and_the_tasks_of_a_suite(tmp_path: Path):
    assert read_items("resisc45, aid eurosat,", tmp_path).texts == ("resisc45", "aid", "eurosat")
    (tmp_path / "runs/one").mkdir(parents=True)
    assert read_items("runs/one", tmp_path).texts == ("runs/one",)
    tasks = ("land_cover_scene", "crop_type_scene", "land_cover_pixel", "crop_type_pixel")
    assert read_items("tasks:quick", tmp_path).texts == tasks
    words = ("evaluate", "quick", "enc/model", "--tasks", "{item}", "--out", "evaluation/{item}")
    script = plan_array(words, "tasks:quick", cluster_file(tmp_path, LOCAL), here=tmp_path).scripts["script.sh"]
    assert '-m skyframe evaluate quick enc/model --tasks "$1" --out evaluation/"$1"\n' in script


def test_cubes_of_a_catalogue_are_items_once(tmp_path: Path):
    """Each of these cubes has dates in two years, so that it stands in two rows."""
    from skyframe.data.listing import list_cubes

    for name in ("a", "b"):
        tiny_cube(tmp_path / "cubes" / name)
    done = list_cubes(tmp_path / "lists/c.parquet", [str(tmp_path / "cubes" / "*")])
    assert done.num_rows == 4
    assert read_items("lists/c.parquet", tmp_path).texts == (f"{tmp_path}/cubes/a", f"{tmp_path}/cubes/b")


def test_tasks_are_written_as_sbatch_takes_them():
    assert tasks_of((1, 2, 3, 7, 9, 10)) == "1-3,7,9-10"
    assert tasks_of((5, 1005, 2500)) == "5,500"  # a task does every thousandth element


def test_the_last_step_of_an_ingestion_goes_without_its_part(tmp_path: Path):
    mini = cluster_file(tmp_path)
    plan = plan_array(INGEST, "2", mini, knows_part=True, here=tmp_path)
    assert plan.command.words == (*INGEST, "--part", "{part}") and plan.command.finish == INGEST
    placed = plan_array(("ingest", "--part={part}", "cf", "a", "b"), "2", mini, knows_part=True, here=tmp_path)
    assert placed.command.finish == ("ingest", "cf", "a", "b")
    other = plan_array(("simulate", "cubes/{part}"), "2", mini, here=tmp_path)
    assert other.command.finish == () and list(other.scripts) == ["script.sh"]


def test_gpus_are_those_of_an_element(tmp_path: Path):
    script = plan_array(VERIFY, "*", cluster_file(tmp_path, MINI + "gpus_per_node: 8\n"), here=tmp_path).scripts
    assert "--gpus" not in script["script.sh"] and "--ntasks-per-node=1\n" in script["script.sh"]
    given = plan_array(VERIFY, "*", cluster_file(tmp_path, MINI + "gpus_per_node: 8\n"), gpus=1, here=tmp_path).scripts
    assert "#SBATCH --gpus-per-node=1\n" in given["script.sh"] and "--ntasks-per-node=1\n" in given["script.sh"]


@pytest.mark.parametrize(
    ("text", "array", "words", "more", "sentence"),
    [
        (MINI, "0", INGEST, {}, "--array 0, expected 1 to 100000 parts"),
        (MINI, "-3", INGEST, {}, "--array -3, expected 1 to 100000 parts"),
        (MINI, "lits", VERIFY, {}, "'lits' is no number, no file and no glob.*did you mean 'list'"),
        (MINI, "tasks:quik", VERIFY, {}, "quik"),
        (MINI, "a,b,a", VERIFY, {}, "'a' is there twice"),
        (MINI, "nothing/*", VERIFY, {}, "nothing there, expected at least one item"),
        (MINI, "twice", VERIFY, {}, "'a' is there twice"),
        (MINI, "option", VERIFY, {}, "item '--help' begins with -"),
        (MINI, "binary", VERIFY, {}, "binary is no text, expected one item a line"),
        (MINI, "bad.parquet", VERIFY, {}, "bad.parquet is no catalogue"),
        (MINI, "list", ("verify", "a"), {}, "`verify a` over a list of items, expected {item}"),
        (MINI, "list", ("verify", "{item}", "{part}"), {}, "expected {item} where an item stands and no {part}"),
        (MINI, "3", VERIFY, {}, "in parts, expected {part} in place of {item}"),
        (MINI, "3", ("verify", "a"), {}, "`verify a` in parts, expected {part} where K/N stands"),
        (MINI, "3", (*INGEST, "--part", "1/3"), {"knows_part": True}, "option --part that is left to the array"),
        (MINI, "list", VERIFY, {"name": "a/b"}, "--name 'a/b', expected letters"),
        (MINI, "list", VERIFY, {"name": "taken"}, "arrays/taken: is there already; `skyframe launch --again"),
        (MINI, "list", VERIFY, {"at_once": -1}, "--jobs -1 and --gpus 0, expected 0 or more"),
        (MINI, "list", VERIFY, {"gpus": 1}, "--gpus 1 but mini.yaml has gpus_per_node 0"),
        (GPUS, "list", VERIFY, {}, "has exclusive, so that each element would take a node of 8 GPUs for the 0"),
        (GPUS, "list", VERIFY, {"gpus": 9}, "--gpus 9 but mini.yaml has gpus_per_node 8"),
        (LOCAL, "list", VERIFY, {"gpus": 1}, "--gpus 1 with mini.yaml, which is this machine"),
        (LOCAL, "list", VERIFY, {"after": "7"}, "--after 7 with .*mini.yaml, which has no queue"),
        (MINI, "list", VERIFY, {"after": "soon"}, "--after 'soon', expected the id of a job"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, text, array, words, more, sentence):
    lists = {"list": "a\nb\n", "twice": "a\na\n", "option": "--help\n", "bad.parquet": "no"}
    for name, lines in lists.items():
        (tmp_path / name).write_text(lines)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "runs/arrays/taken").mkdir(parents=True)
    with pytest.raises(InputError, match=sentence) as refused:
        plan_array(words, array, cluster_file(tmp_path, text), here=tmp_path, **more)
    assert "\n" not in str(refused.value) and [p.name for p in (tmp_path / "runs/arrays").iterdir()] == ["taken"]


def test_only_arrays_are_done_again(tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no array.json, expected the folder of an array or a sweep"):
        plan_again(tmp_path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--array", "2", "--", "ingets", "a"], "no skyframe command 'ingets', expected one after --; did you mean"),
        (["--array", "2"], "no skyframe command '', expected one after --; see"),
        (["--array", "2", "--", "pretrain", "x"], "`pretrain` is no work of an array, expected another; use launch"),
        (["--array", "2", "--", "ingest", "cf", "a", "b", "--parts", "1"], "No such option"),
        (["--array", "list", "--", "ingest", "{item}"], "Missing argument"),
        (["--array", "2", "--nodes", "2", "--", *INGEST], "--array goes without --nodes"),
        (["--array", "2", "--name", "x", "--again", "f"], "--again goes without --array and --name"),
        (["skysense_demo", "--gpus", "1"], "RECIPE goes without --gpus"),
        (["--again", "f"], "f: holds no array.json"),
        ([], "Missing argument 'RECIPE'"),
    ],
    ids=lambda v: " ".join(v)[:30] if isinstance(v, list) else "",
)
def test_the_command_line_refuses_in_one_sentence(tmp_path: Path, monkeypatch, capsys, words, sentence):
    from skyframe.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text("a\n")
    given = words if "--again" in words else ["--cluster", cluster_file(tmp_path), *words]
    monkeypatch.setattr("sys.argv", ["skyframe", "launch", *given])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.startswith("error: ") and sentence in said and said.count("\n") == 1
    assert not (tmp_path / "runs").exists()
