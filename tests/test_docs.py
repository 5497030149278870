"""Words against code: docstrings, the README's programs, the names that are exported, versions, the missing core."""

import ast
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import convrnn
from convrnn import _core, _version

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FORMULAS = (ROOT / "docs" / "formulas.md").read_text(encoding="utf-8")
DOCUMENTED = [name for name in convrnn.__all__ if inspect.isroutine(getattr(convrnn, name))
              or inspect.isclass(getattr(convrnn, name))]


def programs(page):
    """The Python programs of a page."""
    return re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def documented_parameters(docstring):
    """The names in a numpydoc section Parameters, in order; none without that section."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-+$|\Z)", inspect.cleandoc(docstring),
                        re.DOTALL | re.MULTILINE)
    lines = section[1].splitlines() if section else []
    return [name.strip().lstrip("*") for line in lines if line and not line[0].isspace()
            for name in line.split(" : ")[0].split(",")]


def public_callables():
    """(label, callable) of every public function, class and method of a public class; inherited methods once each."""
    seen = {}
    for name in DOCUMENTED:
        value = getattr(convrnn, name)
        seen[value] = name
        if inspect.isclass(value):
            for method_name, method in inspect.getmembers(value, inspect.isfunction):
                if not method_name.startswith("_") or method_name == "__call__":
                    seen.setdefault(method, f"{name}.{method_name}")
    return [pytest.param(value, id=label) for value, label in seen.items()]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_public_names_have_docstrings(name):
    value = getattr(convrnn, name)
    docstring = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert docstring and docstring.strip(), f"{name} has no docstring of its own"


@pytest.mark.parametrize("value", public_callables())
def test_documented_parameters_are_those_of_the_signature(value):
    documented = documented_parameters(value.__doc__ or "")
    unknown = [name for name in documented if name not in inspect.signature(value).parameters]
    assert not unknown, f"documented, but no parameters: {unknown}"
    assert len(set(documented)) == len(documented)


# Functions that others refer to ("see conv2d for what is not said here") must leave nothing out.
@pytest.mark.parametrize("name", ["avg_pool2d", "avg_pool2d_backward", "conv2d", "conv2d_backward", "conv_transpose2d",
                                  "conv_transpose2d_backward", "max_pool2d", "max_pool2d_backward", "rnn",
                                  "rnn_backward"])
def test_the_leading_functions_document_every_parameter(name):
    function = getattr(convrnn, name)
    assert set(documented_parameters(function.__doc__)) == set(inspect.signature(function).parameters)


def test_sections_of_parameters_are_found():
    text = """Sum.

    Parameters
    ----------
    x, y : array
        Words : with a colon.
    *rest
        More.

    Returns
    -------
    z : array
    """
    assert documented_parameters(text) == ["x", "y", "rest"]
    assert documented_parameters("Sum.") == []


@pytest.mark.parametrize("program", [pytest.param(text, id=f"block{i}") for i, text in enumerate(programs(README))])
def test_readme_programs_run(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})


def test_formulas_hold():
    """The page's programs, one after the other; each ends with what it asserts."""
    names = {"__name__": "formulas"}
    for program in programs(FORMULAS):
        assert "assert" in program
        exec(compile(program, "formulas.md", "exec"), names)


def test_the_example_learns(capsys):
    runpy.run_path(str(ROOT / "examples" / "parity.py"), run_name="__main__")
    *steps, stream = capsys.readouterr().out.splitlines()
    assert steps[-1].endswith("100.0% right") and stream == "stream: 96 of 96 right"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/formulas.md", "docs/performance.md",
                                  "benchmarks/README.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", [README, FORMULAS], ids=["readme", "formulas"])
def test_pages_have_programs(page):
    assert len(programs(page)) == page.count("```python") > 0


def test_all_is_what_the_package_imports():
    """__all__ has no name twice and holds every name that __init__.py binds, but those with an underscore."""
    tree = ast.parse(Path(convrnn.__file__).read_text(encoding="utf-8"))
    imported = {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom)
                for alias in node.names}
    assert len(set(convrnn.__all__)) == len(convrnn.__all__)
    assert set(convrnn.__all__) == imported
    assert all(hasattr(convrnn, name) for name in convrnn.__all__)


@pytest.mark.parametrize("module", ["autoregressive", "conv", "layers", "pool", "recurrent_layers", "runtime"])
def test_public_names_of_modules_are_exported(module):
    source = getattr(convrnn, module)
    public = getattr(source, "__all__", None) or [
        name for name, value in vars(source).items()
        if inspect.isfunction(value) and value.__module__ == source.__name__ and not name.startswith("_")]
    assert public and set(public) <= set(convrnn.__all__)


def test_versions_agree():
    assert convrnn.__version__ == _version.__version__ == _core.version()


def import_alone(folder, core=None):
    """What `import convrnn` prints as its last line where the package is __init__.py and, if given, a _core.py.

    Without site-packages (-S), where an editable installation would lend its own _core.
    """
    package = folder / "convrnn"
    package.mkdir()
    shutil.copy(convrnn.__file__, package)
    if core is not None:
        (package / "_core.py").write_text(core, encoding="utf-8")
    done = subprocess.run([sys.executable, "-S", "-c", "import convrnn"], cwd=folder, capture_output=True, text=True,
                          env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"})
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


def test_a_missing_core_is_named(tmp_path):
    line = import_alone(tmp_path)
    assert line.startswith("ImportError: convrnn._core is not built")
    assert str(tmp_path / "convrnn") in line and "pip install" in line


def test_a_core_that_fails_to_load_keeps_its_error(tmp_path):
    assert import_alone(tmp_path, "raise ImportError('a library is missing')") == "ImportError: a library is missing"
