"""The wheel holds the package, its extension, its data and its licence, and nothing else."""

import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
needed = ["bnn/__init__.py", "bnn/_C", "bnn/models/weights/glyph_teacher.safetensors", "bnn/data/", "LICENSE"]
needed += ["bnn/report/page.html", "bnn/data/glyph_lookalikes.json"]
missing = [part for part in needed if not any(part in name for name in names)]
stray = [name for name in names if not name.startswith(("bnn/", "bnn_torch-"))]
if missing or stray:
    sys.exit(f"wheel: missing {missing}, stray {stray}")
print(f"wheel: {len(names)} files, as expected")
