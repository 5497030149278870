"""What pyproject.toml cannot say: one static library per instruction set, and the extension that links them."""
import platform
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent

# Contraction is off so that a sum is rounded alike in every tile (kernels fuse by name), and traps are off so that
# selections become blends. CPython's own flags bring -g, -fwrapv, and -DNDEBUG, which turns off the kernels' asserts.
FLAGS = ["-std=gnu11", "-O3", "-g0", "-Wall", "-Wextra", "-fvisibility=hidden", "-ffp-contract=off",
         "-fno-math-errno", "-fno-trapping-math"]
ISAS = {"generic": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    ISAS["avx2"] = ["-mavx2", "-mfma"]
    ISAS["avx512"] = ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"]

HEADERS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".inc"))
OPERATORS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.c"))


def static_library(name, sources, flags):
    """A build_clib entry whose objects are rebuilt when any header changes."""
    return name, {"sources": sources, "cflags": FLAGS + flags, "obj_deps": {"": HEADERS}}


LIBRARIES = [static_library("convrnn_operators", OPERATORS, [])]
LIBRARIES += [static_library(f"convrnn_{name}", [f"csrc/isa/{name}.c"], flags) for name, flags in ISAS.items()]


class BuildLibraries(build_clib):
    """Static libraries of position-independent code, for a shared module."""

    def build_libraries(self, libraries):
        self.compiler.compiler = [flag for flag in self.compiler.compiler if flag != "-g"]
        super().build_libraries(libraries)


class BuildExtension(build_ext):
    """Builds the static libraries first, in place and in any other build."""

    def run(self):
        self.run_command("build_clib")
        libraries = self.get_finalized_command("build_clib")
        for extension in self.extensions:
            extension.libraries = libraries.get_library_names()
            extension.library_dirs = [libraries.build_clib]
            extension.depends = [*extension.depends, *OPERATORS, *HEADERS]
        super().run()


setup(
    libraries=LIBRARIES,
    ext_modules=cythonize(
        Extension("convrnn._core", ["convrnn/_core.pyx"], include_dirs=["csrc", np.get_include()],
                  define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
                                 ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION")],
                  extra_compile_args=["-O2", "-g0"], extra_link_args=["-pthread", "-Wl,-s"]),
        build_dir="build",
    ),
    cmdclass={"build_clib": BuildLibraries, "build_ext": BuildExtension},
)
