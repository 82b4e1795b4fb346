"""UCF101 in miniature: five of its classes, in five groups of two clips each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polymodal.data.miniature.media import picture, tone, write_clip, write_jpeg

CLASSES = (
    "ApplyEyeMakeup", "ApplyLipstick", "Archery", "BabyCrawling", "BalanceBeam", "BandMarching", "BaseballPitch",
    "Basketball", "BasketballDunk", "BenchPress", "Biking", "Billiards", "BlowDryHair", "BlowingCandles",
    "BodyWeightSquats", "Bowling", "BoxingPunchingBag", "BoxingSpeedBag", "BreastStroke", "BrushingTeeth",
    "CleanAndJerk", "CliffDiving", "CricketBowling", "CricketShot", "CuttingInKitchen", "Diving", "Drumming",
    "Fencing", "FieldHockeyPenalty", "FloorGymnastics", "FrisbeeCatch", "FrontCrawl", "GolfSwing", "Haircut",
    "Hammering", "HammerThrow", "HandstandPushups", "HandstandWalking", "HeadMassage", "HighJump", "HorseRace",
    "HorseRiding", "HulaHoop", "IceDancing", "JavelinThrow", "JugglingBalls", "JumpingJack", "JumpRope", "Kayaking",
    "Knitting", "LongJump", "Lunges", "MilitaryParade", "Mixing", "MoppingFloor", "Nunchucks", "ParallelBars",
    "PizzaTossing", "PlayingCello", "PlayingDaf", "PlayingDhol", "PlayingFlute", "PlayingGuitar", "PlayingPiano",
    "PlayingSitar", "PlayingTabla", "PlayingViolin", "PoleVault", "PommelHorse", "PullUps", "Punch", "PushUps",
    "Rafting", "RockClimbingIndoor", "RopeClimbing", "Rowing", "SalsaSpin", "ShavingBeard", "Shotput",
    "SkateBoarding", "Skiing", "Skijet", "SkyDiving", "SoccerJuggling", "SoccerPenalty", "StillRings",
    "SumoWrestling", "Surfing", "Swing", "TableTennisShot", "TaiChi", "TennisSwing", "ThrowDiscus",
    "TrampolineJumping", "Typing", "UnevenBars", "VolleyballSpiking", "WalkingWithDog", "WallPushups",
    "WritingOnBoard", "YoYo",
)  # fmt: skip
SHOWN = ("Archery", "HandstandPushups", "Surfing", "Basketball", "YoYo")
SILENT = ("Basketball", "YoYo")
GROUPS = {1: (1,), 2: (8,), 3: (15,)}  # test groups of each split; in the whole set 1-7, 8-14 and 15-21
RATE, FPS, FRAMES = 16000, 4, 14


def write(root: Path, random: np.random.Generator) -> None:
    """Lists, videos, pictures and flow.

    Files of HandstandPushups are called v_HandStandPushups_*, but not the folders of their flow. Classes of UCF50 have no sound;
    nor has one clip of another class, and one is shorter than four pictures at one a second.
    """
    files = []
    for number, label in enumerate(SHOWN):
        stem = label.replace("Handstand", "HandStand")
        for group in (1, 8, 15, 22, 23):
            for clip in (1, 2):
                name = f"v_{stem}_g{group:02d}_c{clip:02d}"
                files.append((label, group, name))
                odd = {"v_Archery_g22_c01": "silent", "v_Surfing_g22_c01": "short"}.get(name, "")
                _video(root / "UCF-101" / label / f"{name}.avi", number, odd, random)
                _frames(root, name, name.replace("HandStand", "Handstand"), number, random)
    _lists(root / "ucfTrainTestlist", files)


def _video(path: Path, number: int, odd: str, random: np.random.Generator) -> None:
    count = 12 if odd == "short" else FRAMES
    frames = np.stack([picture(number, random) for _ in range(count)])
    silent = odd == "silent" or path.parent.name in SILENT
    write_clip(path, frames, FPS, None if silent else tone(number, random, count / FPS, RATE), RATE)


def _frames(root: Path, rgb: str, flow: str, number: int, random: np.random.Generator) -> None:
    for place in range(1, 5):
        file = f"frame{place:06d}.jpg"
        write_jpeg(root / "jpegs_256" / rgb / file, picture(number, random))
        for axis, shift in (("u", 0), ("v", 4)):
            moved = picture((number + shift) % 9, random).max(-1) // 2 + 64
            write_jpeg(root / "tvl1_flow" / axis / flow / file, moved)


def _lists(folder: Path, files: list[tuple[str, int, str]]) -> None:
    folder.mkdir()
    (folder / "classInd.txt").write_bytes("".join(f"{i} {name}\r\n" for i, name in enumerate(CLASSES, 1)).encode())
    for split, held in GROUPS.items():
        train = [f"{c}/{name}.avi {CLASSES.index(c) + 1}\n" for c, group, name in files if group not in held]
        test = [f"{c}/{name}.avi\n" for c, group, name in files if group in held]
        (folder / f"trainlist0{split}.txt").write_text("".join(train))
        (folder / f"testlist0{split}.txt").write_text("".join(test))
