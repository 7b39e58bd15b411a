"""The network of forecasting against its equations, and errors as figures and in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ostinato.tasks.encoder import Encoder
from ostinato.tasks.forecaster import FLOOR, Forecaster, linear_part
from ostinato.tasks.rolling_errors import LINEAR, MODEL, NAIVE, errors_of, verdict


def forecaster(bidirectional: bool = False) -> Forecaster:
    torch.manual_seed(0)
    encoder = Encoder(channels=2, embedding=4, cell="elman", hidden=5, bidirectional=bidirectional)
    model = Forecaster(encoder, 2, 7, 3, linear=True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_model_is_its_equations(bidirectional: bool) -> None:
    model = forecaster(bidirectional)
    past = torch.randn(7, 4, 2, dtype=torch.float64) * 3 + 1
    found = model(past)
    assert found.shape == (4, 3, 2)
    for b in range(4):
        mean = past[:, b].mean(0)
        scale = past[:, b].std(0, correction=0) + FLOOR
        x = (past[:, b] - mean) / scale
        y, _ = model.encoder(x[:, None])
        last = torch.cat([y[-1, 0, :5], y[0, 0, 5:]])
        ahead = model.head(last).view(3, 2)
        for c in range(2):
            linear = x[:, c] @ model.weight[c] + model.bias[c]
            wanted = mean[c] + scale[c] * (ahead[:, c] + linear)
            torch.testing.assert_close(found[b, :, c], wanted)


def test_a_forecast_moves_with_its_window() -> None:
    model = forecaster()
    past = torch.randn(7, 4, 2, dtype=torch.float64)
    torch.testing.assert_close(model(past + 100), model(past) + 100)


def test_the_linear_part_begins_as_a_regression() -> None:
    """Which of series that go on linearly, each in its own way, is right at once."""
    t = np.arange(400)
    series = np.stack([np.sin(t / 3), np.sin(t / 5)], 1).astype(np.float32)
    inputs = [series[o - 16 : o] for o in range(16, 390)]
    targets = np.stack([series[o : o + 4] for o in range(16, 390)])
    targets[5, 2, 1] = np.nan
    weight, bias = linear_part(inputs, targets)
    model = Forecaster(
        Encoder(channels=2, embedding=4, cell="gru", hidden=3), 2, 16, 4, linear=True
    )
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    model.weight.data, model.bias.data = weight.float(), bias.float()
    with torch.no_grad():
        found = model(torch.from_numpy(np.stack(inputs, 1))).numpy()
    assert np.nanmean(abs(found - targets)) < 0.02


# ---- errors in words


def test_errors_by_step() -> None:
    targets = np.array([[1.0, 2], [3, np.nan]])
    forecasts = {MODEL: np.array([[2.0, 2], [6, 9]]), NAIVE: targets * 0}
    found = errors_of(forecasts, targets, np.array([1.0, 2.0]))
    assert found.mae[MODEL].tolist() == [2, 0]
    assert found.rmse[MODEL].tolist() == pytest.approx([5**0.5, 0])
    assert found.mase[MODEL].tolist() == [1.25, 0]
    assert found.all_mae[MODEL] == pytest.approx(4 / 3)
    assert found.all_mase[MODEL] == pytest.approx(2.5 / 3)
    assert found.all_mae[NAIVE] == 2


@pytest.mark.parametrize(
    ("model", "naive", "linear", "wanted"),
    [
        ([1, 1], [3, 3], [2, 2], "the model's mean absolute error is 50.0% below linear AR's"),
        ([1, 4], [3, 3], [5, 5], "is 16.7% below seasonal naive's; a baseline wins at step 2 of 2"),
        ([2, 1, 2, 2], [1, 9, 1, 1], [9, 9, 9, 9], "; a baseline wins at steps 1, 3-4 of 4"),
        ([3, 3], [2, 2], [4, 4], "x: seasonal naive wins; the model's mean abs"),
        ([3, 3], [9, 9], [2, 2], "linear AR wins; the model's mean absolute error is 50.0% above"),
        ([3, 3], [0, 0], [2, 2], "x: seasonal naive wins, without an error"),
        ([0, 0], [1, 1], [0, 0], "x: the model has no error, nor has linear AR"),
    ],
)
def test_the_verdict_names_the_winner(
    model: list[float], naive: list[float], linear: list[float], wanted: str
) -> None:
    forecasts = {
        who: np.array([errors], dtype=np.float64)
        for who, errors in ((MODEL, model), (NAIVE, naive), (LINEAR, linear))
    }
    found = errors_of(forecasts, np.zeros((1, len(model))), np.ones(1))
    assert wanted in verdict("x", found)
