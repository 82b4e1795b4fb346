"""CREMA-D in miniature: seven actors, each in all six emotions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from polymodal.data.miniature.media import picture, tone, write_clip, write_wav

EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
ACTORS = ("1001", "1002", "1003", "1015", "1042", "1077", "1091")
SENTENCES = ("IEO", "DFA", "TIE")
RATE, FPS = 16000, 10


def write(root: Path, random: np.random.Generator) -> None:
    """Sounds, videos, the owner's tables, OGM-GE's lists (CR LF, no header, a mark of byte order) and MLB's folds.

    In the folds the number behind each clip is not its emotion, and the file ends in .pkl and is JSON.
    """
    clips = []
    for a, actor in enumerate(ACTORS):
        for e, emotion in enumerate(EMOTIONS):
            level = "XX" if emotion == "NEU" else ("LO", "MD", "HI")[(a + e) % 3]
            clip = f"{actor}_{SENTENCES[(a + e) % 3]}_{emotion}_{level}"
            clips.append(clip)
            seconds = 1.0 if a % 2 else 1.3
            write_wav(root / "AudioWAV" / f"{clip}.wav", tone(e, random, seconds, RATE), RATE)
            frames = np.stack([picture(e, random) for _ in range(round(seconds * FPS))])
            write_clip(root / "VideoFlash" / f"{clip}.flv", frames, FPS, tone(e, random, seconds, 11025), 11025)
    _lists(root, clips, random)
    _folds(root, clips, random)
    _tables(root, clips)


def _lists(root: Path, clips: list[str], random: np.random.Generator) -> None:
    # Every seventh clip, so that all actors and emotions lie in both lists.
    test = set(clips[::7]) | set(clips[3::7])
    for name, chosen in (("train", [c for c in clips if c not in test]), ("test", [c for c in clips if c in test])):
        lines = [f"{clip},{clip.split('_')[2]}\r\n" for clip in random.permutation(chosen)]
        (root / f"{name}.csv").write_bytes("".join(lines).encode())
    (root / "stat.csv").write_bytes(b"\xef\xbb\xbf" + "".join(f"{name}\r\n" for name in EMOTIONS).encode())


def _folds(root: Path, clips: list[str], random: np.random.Generator) -> None:
    folds = {}
    for fold in range(1, 6):
        valid, test = ACTORS[fold % 7], ACTORS[(fold + 1) % 7]
        parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for clip in clips:
            part = {valid: "val", test: "test"}.get(clip[:4], "train")
            parts[part].append(f"{clip}.wav-{random.integers(0, 5)}")
        folds[str(fold)] = parts
    (root / "folds.pkl").write_text(json.dumps(folds))


def _tables(root: Path, clips: list[str]) -> None:
    """What else the owner's copy holds, and no reader needs."""
    folder = root / "processedResults"
    folder.mkdir()
    head = '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"\n'
    votes = [f'"{i}","{c}","{c[9]}","61.1","{c[9]}","60.0","{c[9]}","70.2"\n' for i, c in enumerate(clips, 1)]
    (folder / "summaryTable.csv").write_text(head + "".join(votes))
    names = [f'"{i}","{clip}"\n' for i, clip in enumerate(clips, 1)]
    (root / "SentenceFilenames.csv").write_text('"Stimulus_Number","Filename"\n' + "".join(names))
