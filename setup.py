"""pip's door: `pip install .` puts what CMakeLists.txt builds for colcon into a wheel."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))
import ros_build


class BinaryDistribution(Distribution):
    """Compiled messages fit one Python version and one platform, and the wheel's name must say so."""

    def has_ext_modules(self) -> bool:
        return True


class build_with_messages(build_py):
    """Adds the compiled messages to the rooms; an editable installation leaves that to `make messages`."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        staging = Path(tempfile.mkdtemp(prefix="chimera_ros_"))
        atexit.register(shutil.rmtree, staging, ignore_errors=True)  # later commands still copy from it
        print("compiling the messages, about half a minute", flush=True)
        try:
            files = ros_build.build(
                staging / "build", staging / "prefix", rooms=True, shebang="/usr/bin/env python3"
            )
        except ros_build.BuildError as error:
            print(error.log, file=sys.stderr)
            sys.exit(f"chimera_ros: {error}")
        self._take(staging / "prefix", files)

    def _take(self, prefix: Path, files: list[Path]) -> None:
        """Generated Python goes among the rooms, everything else lands below the environment's prefix."""
        package = Path(self.build_lib) / "chimera_ros"
        data = defaultdict(list)
        for file in files:
            relative = file.relative_to(prefix)
            if "site-packages" in relative.parts or "dist-packages" in relative.parts:
                target = package.joinpath(*relative.parts[relative.parts.index("chimera_ros") + 1 :])
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, target)
            else:
                data[str(relative.parent)].append(os.path.relpath(file))
        self.distribution.data_files = [*(self.distribution.data_files or []), *sorted(data.items())]
        # install_data was finalised before the build knew its files.
        install_data = self.distribution.get_command_obj("install_data", create=False)
        if install_data is not None:
            install_data.data_files = self.distribution.data_files


setup(distclass=BinaryDistribution, cmdclass={"build_py": build_with_messages})
