"""Laws of pictures of Matplotlib: all of their texts can be read."""

import warnings
from unittest.mock import patch

import numpy as np
from matplotlib.text import Text


def assert_no_text_is_covered(figure):
    """No text of the figure reaches into another by more than a pixel."""
    texts, low, high = _boxes(figure)
    shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    pairs = np.argwhere(np.triu((shared > 1).all(axis=-1), 1))
    assert not [(texts[one], texts[other]) for one, other in pairs]


def assert_no_text_is_cut(figure):
    """No text of the figure reaches beyond its edge."""
    texts, low, high = _boxes(figure)
    cut = (low < 0).any(axis=1) | (high > figure.bbox.size).any(axis=1)
    assert not [texts[one] for one in np.flatnonzero(cut)]


def _boxes(figure):
    """Return the texts that are drawn, as not all labels of ticks are, and the corners of each."""
    with patch.object(Text, "draw", autospec=True, side_effect=Text.draw) as draw, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.draw_without_rendering()
        texts = [text for text in dict.fromkeys(call.args[0] for call in draw.mock_calls) if text.get_text().strip()]
        boxes = [Text.get_window_extent(text) for text in texts]  # without the arrows of annotations
    return texts, np.array([box.min for box in boxes]), np.array([box.max for box in boxes])
