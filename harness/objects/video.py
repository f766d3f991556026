"""Frames → MP4 and WebP, as bytes. The last frame leads to the first: both go round."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image


def mp4(frames_NHWC: np.ndarray, fps: int) -> bytes:
    """H.264 in 4:2:0 that browsers play, BT.709 and said so; frames are uint8 [N, H, W, 3].

    A row or column is repeated where a side is odd: 4:2:0 knows even sides alone.
    """
    _, height, width, _ = frames_NHWC.shape
    frames = np.pad(frames_NHWC, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16", "preset": "slow"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.time_base = Fraction(1, fps)
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
        context.color_range = 1  # 16…235
        for n, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            frame.pts, frame.time_base = n, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return data.getvalue()


def webp(frames_NHWC: np.ndarray, fps: int) -> bytes:
    """An animated WebP that repeats for ever; frames are uint8 [N, H, W, 3]."""
    first, *others = [Image.fromarray(pixels) for pixels in frames_NHWC]
    # Whole milliseconds that add up to the turn: a rounded frame would shorten it.
    ends = np.round(np.arange(len(frames_NHWC) + 1) * 1000 / fps).astype(int)
    data = io.BytesIO()
    first.save(
        data,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=np.diff(ends).tolist(),
        loop=0,
        quality=80,
        method=4,
    )
    return data.getvalue()
