"""What a file is, by its first bytes, whatever it is called: for messages about files that cannot be read."""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

HEAD_BYTES = 4096


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: short and stable: "gzip", "hdf5", "text", …; "unknown".
        description: with its article, for use in a sentence: "a gzip file".
    """

    name: str
    description: str


UNKNOWN = Kind("unknown", "a file of an unknown kind")
EMPTY = Kind("empty", "an empty file")

# (offset, bytes, name, description); the first that matches is used.
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    # Compressed and archives
    (0, b"\x1f\x8b", "gzip", "a gzip file"),
    (0, b"BZh", "bzip2", "a bzip2 file"),
    (0, b"\xfd7zXZ\0", "xz", "an xz file"),
    (0, b"\x5d\0\0", "lzma", "an LZMA file"),
    (0, b"\x28\xb5\x2f\xfd", "zstd", "a Zstandard file"),
    (0, b"\x04\x22\x4d\x18", "lz4", "an LZ4 file"),
    (0, b"\x1f\x9d", "compress", "a file of Unix compress (.Z)"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z", "a 7-Zip archive"),
    (0, b"Rar!\x1a\x07", "rar", "a RAR archive"),
    (0, b"PK\x03\x04", "zip", "a ZIP archive"),
    (0, b"PK\x05\x06", "zip", "an empty ZIP archive"),
    (0, b"PK\x07\x08", "zip", "one part of a split ZIP archive"),
    (257, b"ustar", "tar", "a tar archive"),
    (0, b"MSCF\0\0\0\0", "cab", "a Windows cabinet archive"),
    # Arrays and tables
    (0, b"\x89HDF\r\n\x1a\n", "hdf5", "an HDF5 file"),
    (0, b"\x93NUMPY", "npy", "a NumPy array (.npy)"),
    (0, b"PAR1", "parquet", "a Parquet file"),
    (0, b"ARROW1", "arrow", "an Arrow or Feather file"),
    (0, b"FEA1", "arrow", "a Feather file"),
    (0, b"MATLAB 5.0 MAT-file", "mat", "a MATLAB file (.mat)"),
    (0, b"CDF\x01", "netcdf", "a NetCDF file"),
    (0, b"CDF\x02", "netcdf", "a NetCDF file"),
    (0, b"SQLite format 3\0", "sqlite", "an SQLite database"),
    (0, b"RDX2\n", "rdata", "an R data file"),
    (0, b"RDX3\n", "rdata", "an R data file"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole", "an old Microsoft Office document"),
    # Video and its containers
    (0, b"\x1aE\xdf\xa3", "matroska", "a Matroska or WebM file"),
    (0, b"FLV\x01", "flv", "a Flash video"),
    (0, b"nut/multimedia container\0", "nut", "a NUT file"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "asf", "a Windows Media file (ASF)"),
    (0, b"\0\0\x01\xba", "mpeg-ps", "an MPEG program stream"),
    (0, b"\0\0\x01\xb3", "mpeg-video", "an MPEG video stream without a container"),
    (0, b"\0\0\0\x01\x67", "h264", "an H.264 stream without a container"),
    (0, b"\0\0\0\x01\x40\x01", "h265", "an H.265 stream without a container"),
    (0, b"DHAV", "dahua", "a recording of a Dahua camera (.dav)"),
    (0, b"IMKH", "hikvision", "a recording of a Hikvision camera"),
    (0, b"\x06\x0e\x2b\x34\x02\x05\x01\x01", "mxf", "an MXF file"),
    (0, b"\x1f\x07\0", "dv", "a raw DV video"),
    (0, b"DKIF", "ivf", "an IVF video"),
    (0, b"YUV4MPEG2", "y4m", "an uncompressed YUV4MPEG video"),
    (0, b".RMF", "realmedia", "a RealMedia file"),
    (0, b"\xb7\xd8\0\x20", "wtv", "a Windows recorded TV show (.wtv)"),
    (4, b"RED1", "red", "a RED raw video (.r3d)"),
    (4, b"RED2", "red", "a RED raw video (.r3d)"),
    (0, b"NSVf", "nsv", "a Nullsoft video"),
    # Audio
    (0, b"NIST_1A\n", "sphere", "a NIST SPHERE audio file"),
    (0, b"#!AMR-WB", "amr", "an AMR-WB audio file"),
    (0, b"#!AMR", "amr", "an AMR audio file"),
    (0, b"#!SILK_V3", "silk", "a SILK voice message"),
    (1, b"#!SILK_V3", "silk", "a SILK voice message (WeChat)"),
    (0, b"caff", "caf", "an Apple CAF audio file"),
    (0, b"fLaC", "flac", "a FLAC audio file"),
    (0, b"OggS", "ogg", "an Ogg file"),
    (0, b"ID3", "mp3", "an MP3 audio file"),
    (0, b"RF64", "rf64", "an RF64 WAV audio file"),
    (0, b"BW64", "rf64", "a BW64 WAV audio file"),
    (0, b"RIFX", "rifx", "a big-endian WAV audio file (RIFX)"),
    (0, b"riff\x2e\x91\xcf\x11", "w64", "a Sony Wave64 audio file"),
    (0, b".snd", "au", "a Sun AU audio file"),
    (0, b"wvpk", "wavpack", "a WavPack audio file"),
    (0, b"TTA1", "tta", "a True Audio file"),
    (0, b"MAC ", "ape", "a Monkey's Audio file"),
    (0, b"MPCK", "musepack", "a Musepack audio file"),
    (0, b".ra\xfd", "realaudio", "a RealAudio file"),
    (0, b"Creative Voice File", "voc", "a Creative Voice audio file"),
    (0, b"\x02dss", "dss", "a dictation of a DSS recorder"),
    (0, b"\x03ds2", "dss", "a dictation of a DSS Pro recorder (.ds2), possibly encrypted"),
    (0, b"\x03enc", "dss", "an encrypted dictation of a DSS Pro recorder (.ds2)"),
    (0, b"\x0bw", "ac3", "an AC-3 audio file"),
    (0, b"\x7f\xfe\x80\x01", "dts", "a DTS audio file"),
    (0, b"MThd", "midi", "a MIDI file: notes, not audio"),
    (0, b"ajkg", "shorten", "a Shorten audio file"),
    # Images and documents
    (0, b"\x89PNG\r\n\x1a\n", "png", "a PNG image"),
    (0, b"\xff\xd8\xff", "jpeg", "a JPEG image"),
    (0, b"GIF8", "gif", "a GIF image"),
    (0, b"II*\0", "tiff", "a TIFF image"),
    (0, b"MM\0*", "tiff", "a TIFF image"),
    (0, b"%PDF-", "pdf", "a PDF document"),
    (0, b"%!PS-", "postscript", "a PostScript document"),
    (0, b"{\\rtf", "rtf", "an RTF document"),
    # Programs
    (0, b"MZ", "program", "a Windows program or library"),
    (0, b"\x7fELF", "program", "a program or library (ELF)"),
    (0, b"\xcf\xfa\xed\xfe", "program", "a program or library (macOS)"),
    (0, b"GGUF", "gguf", "a language model (GGUF)"),
    # Encrypted
    (0, b"Salted__", "encrypted", "a file encrypted with OpenSSL"),
    (0, b"age-encryption.org/", "encrypted", "a file encrypted with age"),
    (0, b"-----BEGIN PGP MESSAGE", "encrypted", "a file encrypted with PGP"),
    (0, b"LUKS\xba\xbe", "encrypted", "an encrypted disk image"),
    (0, b"AES\x02", "encrypted", "a file encrypted with AES Crypt"),
    # What file managers, clouds and downloads leave
    (0, b"version https://git-lfs.github.com/spec/", "git-lfs", "a Git LFS pointer, not the file itself"),
    (0, b"/annex/objects/", "git-annex", "a git-annex pointer, not the file itself"),
    (0, b"\0\x05\x16\x07", "appledouble", "a macOS companion file (._), which has no content of its own"),
    (0, b"\0\0\0\x01Bud1", "ds-store", "a macOS folder setting (.DS_Store)"),
    (0, b"bplist00", "plist", "an Apple property list, as iCloud leaves for a file that is not downloaded"),
    (0, b"L\0\0\0\x01\x14\x02\0", "shortcut", "a Windows shortcut, not the file itself"),
    (0, b"[InternetShortcut]", "shortcut", "an Internet shortcut, not the file itself"),
    (0, b"d8:announce", "torrent", "a torrent, not the file itself"),
)
_RIFF = {
    b"WAVE": Kind("wav", "a WAV audio file"),
    b"AVI ": Kind("avi", "an AVI file"),
    b"WEBP": Kind("webp", "a WebP image"),
    b"RMID": Kind("midi", "a MIDI file: notes, not audio"),
}
_FORM = {
    b"AIFF": Kind("aiff", "an AIFF audio file"),
    b"AIFC": Kind("aiff", "an AIFF-C audio file"),
    b"8SVX": Kind("8svx", "an Amiga audio file"),
}
# The major brand of an ISO media file, by its first letters; MP4 otherwise.
_BRANDS = (
    (b"qt", Kind("mov", "a QuickTime file")),
    (b"3g", Kind("3gp", "a 3GP file")),
    (b"M4A", Kind("m4a", "an MPEG-4 audio file")),
    (b"M4B", Kind("m4a", "an MPEG-4 audio book")),
    (b"aax", Kind("encrypted", "an encrypted Audible audio book")),
    (b"braw", Kind("braw", "a Blackmagic raw video (.braw)")),
    (b"crx", Kind("cr3", "a Canon raw file")),
    (b"hei", Kind("heic", "an HEIC image")),
    (b"mif1", Kind("heic", "an HEIF image")),
    (b"avif", Kind("avif", "an AVIF image")),
    (b"jp2", Kind("jp2", "a JPEG 2000 image")),
)
_MOVIE_BOXES = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_TEXT_BOMS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_JSON = re.compile(r"\{\s{0,99}[\"}]|\[\s{0,99}(?:[\[{\"\]]|-?\d|true|false|null)")
_TEXT_PICKLE = re.compile(
    rb"\([dlt]?p?\d{0,9}\r?\n|\(?c(?:copy_reg|numpy|collections|__builtin__|builtins|__main__)[\w.]{0,80}\r?\n"
    rb"|\(?c[\w.]{1,80}\r?\n[\w.]{1,80}\r?\n[(\])}pqNRS]"
)
_CUE = re.compile(r"\d{1,2}:\d\d(?::\d\d)?[.,]\d{1,3}\s{0,9}-->")


def describe_kind(source: str | os.PathLike | bytes) -> str:
    """What a file is, such as "a gzip file" or "a Git LFS pointer, not the file itself".

    Args:
        source: a path, or the first bytes of a file, of which `HEAD_BYTES` are enough.

    Returns:
        A description with its article; "a file of an unknown kind" if nothing is recognised, and what stands in the way
        if the path cannot be read.
    """
    return file_kind(source).description


def file_kind(source: str | os.PathLike | bytes) -> Kind:
    """The kind of a file, by its path or its first bytes; see `describe_kind`."""
    if not isinstance(source, (bytes, bytearray, memoryview)):
        path = Path(source)
        try:
            if path.is_dir():
                return Kind("folder", "a folder")
            if path.exists() and not path.is_file():  # opening a named pipe would wait for somebody to write
                return Kind("device", "a device or named pipe, not a file")
            with open(path, "rb") as file:
                head = file.read(HEAD_BYTES)
        except (OSError, ValueError) as error:
            return Kind("unreadable", f"a file that cannot be read ({getattr(error, 'strerror', None) or error})")
        return _kind(head)
    return _kind(bytes(source[:HEAD_BYTES]))


def _kind(head: bytes) -> Kind:
    if not head:
        return EMPTY
    if head.count(0) == len(head):
        return Kind("zeros", "a file of zero bytes, as an interrupted download or a failing disk leaves")
    readable = not _CONTROL.search(head)
    for at, signature, name, description in _SIGNATURES:
        # A text may start with "MAC " too.
        if head.startswith(signature, at) and not (readable and len(signature) <= 4 and signature.strip().isalpha()):
            return _zip(head) if name == "zip" and at == 0 else Kind(name, description)
    if any(head.startswith(b"\x89HDF\r\n\x1a\n", at) for at in (512, 1024, 2048)):
        return Kind("hdf5", "an HDF5 file")
    return _container(head) or _pickle(head) or _audio_frames(head) or _text(head) or UNKNOWN


def _zip(head: bytes) -> Kind:
    """What a ZIP archive is used for, by the name of its first member."""
    if head[2:4] == b"\x05\x06":
        return Kind("zip", "an empty ZIP archive")
    if head[2:4] == b"\x07\x08":
        return Kind("zip", "one part of a split ZIP archive")
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if len(head) > 7 and head[6] & 1:
        return Kind("zip", "a ZIP archive with a password")
    if name.endswith((b"/data.pkl", b"/version", b"/.format_version", b"/byteorder", b"/.data/serialization_id")):
        return Kind("torch", "a file of torch.save")
    if name.endswith(b".npy"):
        return Kind("npz", "a NumPy archive (.npz)")
    if name in (b"[Content_Types].xml", b"_rels/.rels") or name.startswith((b"word/", b"xl/", b"ppt/")):
        return Kind("office", "a Microsoft Office document")
    return Kind("zip", "a ZIP archive")


def _container(head: bytes) -> Kind | None:
    first, second, third = head[:4], head[4:8], head[8:12]
    if first == b"RIFF":
        return _RIFF.get(third, Kind("riff", "a RIFF file"))
    if first == b"FORM":
        return _FORM.get(third, Kind("iff", "an IFF file"))
    if second == b"ftyp":
        return next((kind for brand, kind in _BRANDS if third.startswith(brand)), Kind("mp4", "an MP4 file"))
    if second in (b"styp", b"moof", b"sidx"):
        return Kind("segment", "one segment of a stream (DASH or HLS) without its beginning")
    if second in _MOVIE_BOXES:
        return Kind("mov", "a QuickTime file")
    # Packets of 188 bytes each start with 0x47; cameras put a time stamp of four bytes before each.
    for start, size, what in ((0, 188, "an MPEG transport stream"), (4, 192, "an MPEG transport stream of a camera")):
        if len(head) > start + 2 * size and all(
            head[at] == 0x47 for at in range(start, start + 3 * size, size) if at < len(head)
        ):
            return Kind("mpeg-ts", what)
    return None


def _pickle(head: bytes) -> Kind | None:
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        if head.startswith(
            (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", b"\x80\x04\x8a\x0a\x6c\xfc\x9c\x46")
        ):
            return Kind("torch", "a file of torch.save (the format before PyTorch 1.6)")
        return Kind("pickle", "a Python pickle")
    if _TEXT_PICKLE.match(head):
        return Kind("pickle", "a Python pickle (text protocol)")
    if head[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda") and _is_zlib(head):
        return Kind("zlib", "a zlib stream, as joblib.dump(compress=…) writes")
    return None


def _is_zlib(head: bytes) -> bool:
    try:
        return bool(zlib.decompressobj().decompress(head, 64))
    except zlib.error:
        return False


def _audio_frames(head: bytes) -> Kind | None:
    if head[0] == 0xFF and len(head) > 3:
        if head[1] & 0xF6 == 0xF0:
            return Kind("aac", "an AAC audio file (ADTS)")
        # A layer, a bit rate and a sample rate that exist; 0xFF 0xFE may be the byte order mark of a text.
        if head[1] & 0xE0 == 0xE0 and head[1] & 0x06 and head[2] >> 4 not in (0, 15) and head[2] & 0x0C != 0x0C:
            if not head.startswith(b"\xff\xfe") or head[3] != 0:
                return Kind("mp3", "an MPEG audio file (MP1, MP2 or MP3)")
    return None


def _text(head: bytes) -> Kind | None:
    for mark, encoding in _TEXT_BOMS:
        if head.startswith(mark):
            text = head.decode(encoding, "ignore")
            break
    else:
        if _CONTROL.search(head):
            return None
        text = head.decode("utf-8", "replace")
    start = text.lstrip("\ufeff \t\r\n")
    lowered = start[:512].lower()
    if lowered.startswith(("<!doctype html", "<html")) or "<html" in lowered:
        return Kind("html", "an HTML page")
    if lowered.startswith("<?xml") and ("<error>" in lowered or "accessdenied" in lowered):
        return Kind("xml", "an error message of a web server (XML)")
    if lowered.startswith("<tt") or "<tt " in lowered:
        return Kind("subtitles", "TTML subtitles")
    if lowered.startswith("<sami"):
        return Kind("subtitles", "SAMI subtitles")
    if lowered.startswith("<svg"):
        return Kind("svg", "an SVG image")
    if lowered.startswith("<?xml"):
        return Kind("xml", "an XML text")
    if start.startswith("WEBVTT"):
        return Kind("subtitles", "WebVTT subtitles")
    if lowered.startswith("[script info]"):
        return Kind("subtitles", "ASS subtitles")
    if _CUE.search(start[:200]):
        return Kind("subtitles", "SubRip subtitles (.srt)")
    if start.startswith("#EXTM3U"):
        return Kind("playlist", "a playlist, not the file itself")
    if _JSON.match(start):
        return Kind("json", "a JSON text")
    lines = [line for line in start.split("\n")[:3] if line.strip()]
    for mark, what in ((",", "comma"), ("\t", "tab"), (";", "semicolon")):
        if len(lines) > 1 and lines[0].count(mark) == lines[1].count(mark) > 0:
            return Kind("table", f"a table ({what}-separated text)")
    return Kind("text", "a text file")
