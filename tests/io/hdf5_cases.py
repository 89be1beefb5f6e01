"""Small HDF5 files in the layouts of Imaris, BigDataViewer and EMAN2, as their programs write them.

Imaris 5.5: https://imaris.oxinst.com/support/imaris-file-format; BigDataViewer:
https://imagej.net/plugins/bdv; EMAN2: https://blake.bcm.edu/emanwiki/EMAN2ImageFormats
"""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np


def letters(text: object) -> np.ndarray:
    """Return a text as Imaris stores it: an array of single letters."""
    return np.frombuffer(str(text).encode(), "S1")


def write_imaris(
    path: Path,
    array: np.ndarray,
    *,
    voxel_size: Sequence[float] = (1.0, 1.0, 1.0),
    start: Sequence[float] = (0.0, 0.0, 0.0),
    names: Sequence[str] = (),
    times: Sequence[str] = (),
    unit: str = "um",
) -> None:
    """Write an image (k, channel, z, y, x), padded to chunks of 4 x 8 x 8; sizes along z, y, x."""
    shape = array.shape[2:]
    padded = [-(-n // chunk) * chunk for n, chunk in zip(shape, (4, 8, 8), strict=True)]
    with h5py.File(path, "w") as file:
        file.attrs["ImarisDataSet"] = letters("ImarisDataSet")
        for t, frame in enumerate(array):
            for c, volume in enumerate(frame):
                group = file.create_group(f"DataSet/ResolutionLevel 0/TimePoint {t}/Channel {c}")
                for axis, length in zip("ZYX", shape, strict=True):
                    group.attrs[f"ImageSize{axis}"] = letters(length)
                data = group.create_dataset(
                    "Data", padded, array.dtype, chunks=(4, 8, 8), compression="gzip"
                )
                data[tuple(slice(n) for n in shape)] = volume
                half = f"DataSet/ResolutionLevel 1/TimePoint {t}/Channel {c}/Data"
                file.create_dataset(half, data=volume[::2, ::2, ::2])
        info = file.create_group("DataSetInfo/Image")
        info.attrs["Unit"] = letters(unit)
        for n in range(3):
            low = start[2 - n]
            info.attrs[f"ExtMin{n}"] = letters(low)
            info.attrs[f"ExtMax{n}"] = letters(low + voxel_size[2 - n] * shape[2 - n])
        for c, name in enumerate(names):
            file.create_group(f"DataSetInfo/Channel {c}").attrs["Name"] = letters(name)
        clock = file.create_group("DataSetInfo/TimeInfo")
        for t, text in enumerate(times, 1):
            clock.attrs[f"TimePoint{t}"] = letters(text)


SPIM_DATA = """<?xml version="1.0" encoding="UTF-8"?>
<SpimData version="0.2"><BasePath type="relative">.</BasePath><SequenceDescription>
<ImageLoader format="{loader}"><hdf5 type="relative">{file}</hdf5></ImageLoader>
<ViewSetups>{setups}</ViewSetups>
<Timepoints type="range"><first>0</first><last>9</last></Timepoints>
</SequenceDescription></SpimData>
"""
SETUP = """<ViewSetup><id>{n}</id><name>{name}</name><size>9 8 7</size>
<voxelSize><unit>{unit}</unit><size>{x} {y} {z}</size></voxelSize>
<attributes><channel>{channel}</channel><angle>0</angle></attributes></ViewSetup>
"""


def write_big_data_viewer(path: Path, array: np.ndarray, first: int = 0) -> None:
    """Write an image (k, setup, z, y, x) of unsigned 16-bit integers, from time point ``first``."""
    with h5py.File(path, "w") as file:
        for t, frame in enumerate(array, first):
            for s, volume in enumerate(frame):
                name = f"t{t:05d}/s{s:02d}/0/cells"
                file.create_dataset(name, data=volume.view("<i2"), chunks=True, compression="gzip")
                file[f"t{t:05d}/s{s:02d}/1/cells"] = volume[::2, ::2, ::2].view("<i2")
        for s in range(array.shape[1]):
            file[f"s{s:02d}/resolutions"] = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
            file[f"s{s:02d}/subdivisions"] = np.array([[16, 16, 16]] * 2, "i4")


def write_spim_data(
    path: Path,
    file: str,
    names: Sequence[str],
    *,
    voxel_size: Sequence[float] = (1.0, 1.0, 1.0),
    unit: str = "micrometer",
    channels: Sequence[int] | None = None,
    loader: str = "bdv.hdf5",
) -> None:
    """Write the XML file of BigDataViewer for setups with these names; size along z, y, x."""
    z, y, x = voxel_size
    numbers = range(len(names)) if channels is None else channels
    setups = "".join(
        SETUP.format(n=n, name=name, unit=unit, x=x, y=y, z=z, channel=channel)
        for n, (name, channel) in enumerate(zip(names, numbers, strict=True))
    )
    path.write_text(SPIM_DATA.format(loader=loader, file=file, setups=setups), encoding="utf-8")


def write_eman2(
    path: Path, images: Sequence[np.ndarray], *, apix: float | None = None, bits: int = 0
) -> list[np.ndarray]:
    """Write images, reduced to ``bits`` unless it is 0; return those that must be read."""
    expected = []
    with h5py.File(path, "w") as file:
        group = file.create_group("MDF/images")
        group.attrs["imageid_max"] = np.int32(len(images) - 1)
        for n, image in enumerate(images):
            node = group.create_group(str(n))
            for axis in "xyz" if apix else "":
                node.attrs[f"EMAN.apix_{axis}"] = np.float32(apix)
            node.attrs["EMAN.is_complex"] = np.int32(0)
            stored = image
            if bits:
                low, high = float(image.min()), float(image.max())
                steps = (1 << bits) - 1
                stored = np.rint((image - low) / (high - low) * steps).astype("u1")
                node.attrs["EMAN.stored_renderbits"] = np.int32(bits)
                node.attrs["EMAN.stored_rendermin"] = np.float32(low)
                node.attrs["EMAN.stored_rendermax"] = np.float32(high)
                image = stored / np.float32(steps) * np.float32(high - low) + np.float32(low)
            node.create_dataset("image", data=stored, compression="gzip" if bits else None)
            expected.append(image)
    return expected
