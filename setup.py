"""Builds saerec from settings.ini, the single source of its metadata (pyproject.toml lists these fields as dynamic)."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], inline_comment_prefixes=["#"])
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]


def lines(key: str) -> list[str]:
    "The entries of a multi-line setting, comments and blanks gone."
    return [o.strip() for o in cfg[key].splitlines() if o.strip()]


setup(
    version=cfg["version"],
    long_description=(here / cfg["readme"]).read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression=cfg["license"],
    license_files=["LICENSE"],
    author=cfg["author"],
    keywords=cfg["keywords"].split(),
    classifiers=[cfg["status"], "Programming Language :: Python :: 3", "Programming Language :: Python :: 3 :: Only",
                 "Typing :: Typed"],
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    package_data={cfg["lib_path"]: ["py.typed", "bundled/*"], f"{cfg['lib_path']}.app": ["static/*", "templates/*"]},
    install_requires=lines("requirements"),
    extras_require={extra: lines(f"{extra}_requirements")
                    for extra in ("dev", "excel", "onnx", "tune", "app", "notebooks")},
    entry_points={"console_scripts": lines("console_scripts"),
                  "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False,
)
