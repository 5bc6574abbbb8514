"""The endings of files that are taken for media where a folder is searched."""

from __future__ import annotations

AUDIO_SUFFIXES = frozenset(
    ".wav .flac .mp3 .m4a .aac .ogg .opus .mka .oga .spx .wma .aif .aiff .aifc .au .snd .caf .amr .w64 .rf64 .mp2 .ac3 "
    ".wv .sph".split()
)
MEDIA_SUFFIXES = AUDIO_SUFFIXES | frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ts .flv .wmv .mts .m2ts .m2t .3gp .3g2 .mxf .dv .vob .ogv .asf".split()
)
