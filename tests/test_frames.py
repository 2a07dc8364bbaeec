"""Frames of aligned crops: what names them, where one lies in another, and that weights keep theirs."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from cyclegan_age.config import FRAME_NAMES, CycleGANConfig, TrainConfig, UserError
from cyclegan_age.faces.alignment import Place
from cyclegan_age.faces.frames import FRAMES, Frame, similarity, window
from cyclegan_age.weight_files import from_settings, load_weights, save_weights, settings
from options.train import parse_train

PROJECT = Path(__file__).resolve().parent.parent
TEN = "0.3,0.4,0.7,0.4,0.5,0.6,0.35,0.8,0.65,0.8"


def test_frames_have_names_and_numbers() -> None:
    assert tuple(FRAMES) == FRAME_NAMES
    assert Frame.of("ffhq") is FRAMES["ffhq"]
    own = Frame.of(TEN)
    assert own.points == ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))
    assert Frame.of(TEN.replace(",", " ")) == own
    for wrong in ("fhq", "0.3,0.4", TEN.replace("0.7", "1.7"), TEN.replace("0.7", "0.2"), TEN.replace("0.7", "nan")):
        with pytest.raises(UserError, match=r"^--frame .*: must be utkface, ffhq, or x and y of five points"):
            Frame.of(wrong)
        with pytest.raises(UserError, match=r"^--frame"):
            TrainConfig(frame=wrong)


def test_frames_need_neither_torch_nor_opencv() -> None:
    code = "import sys, cyclegan_age.faces.frames; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=60).returncode == 0


def test_a_tight_face_lies_in_a_head() -> None:
    left, top, side = window(FRAMES["utkface"], FRAMES["ffhq"])
    assert (256 * left, 256 * top, 256 * side) == pytest.approx((46.7, 70, 166), abs=2)
    # The landmarks of a tight face, put into that window, come to where they are in a head.
    moved = np.array([left, top]) + side * FRAMES["utkface"].template
    assert np.abs(moved - FRAMES["ffhq"].template).max() < 0.02
    assert window(FRAMES["ffhq"], FRAMES["ffhq"]) == pytest.approx((0, 0, 1))


def test_a_similarity_is_found_again() -> None:
    points = FRAMES["utkface"].template
    turned = (points @ (1, 1j)) * (30 * np.exp(0.4j)) + (7 - 3j)
    shift, turn = similarity(points, np.stack([turned.real, turned.imag], axis=1))
    assert (shift, turn) == (pytest.approx(7 - 3j), pytest.approx(30 * np.exp(0.4j)))


def test_the_same_landmarks_have_a_place_in_each_frame() -> None:
    landmarks = np.array([100.0, 50.0]) + 400 * FRAMES["ffhq"].template
    head, face = Place.fit(landmarks, FRAMES["ffhq"]), Place.fit(landmarks, FRAMES["utkface"])
    assert (head.corner, head.edge) == (pytest.approx(100 + 50j), pytest.approx(400))
    left, top, side = window(FRAMES["utkface"], FRAMES["ffhq"])
    assert face.side == pytest.approx(400 * side)
    assert face.corner == pytest.approx(complex(100 + 400 * left, 50 + 400 * top), abs=3)


def test_weights_keep_their_frame(tmp_path: Path) -> None:
    train, _ = parse_train(["--dataroot", "faces", "--frame", TEN])
    assert train.frame == TEN
    for frame in ("utkface", "ffhq", TEN):
        save_weights(tmp_path / "w.safetensors", TrainConfig(frame=frame), CycleGANConfig(), 0, {})
        assert load_weights(tmp_path / "w.safetensors").train.frame == frame
    old = json.loads(json.dumps({"train": asdict(TrainConfig()), "net": asdict(CycleGANConfig())}, default=str))
    del old["train"]["frame"]
    assert from_settings(old)[0].frame == "utkface"
    assert settings(*from_settings(old))["train"]["frame"] == "utkface"
    with pytest.raises(UserError, match=r"^--frame tight: must be utkface, ffhq, or x and y"):
        parse_train(["--dataroot", "faces", "--frame", "tight"])
