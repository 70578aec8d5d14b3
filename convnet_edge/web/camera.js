// Look through the camera and hand over what is in its aiming frame, until stopped or hidden.

import { InputError } from "./contract.js";

const AIM_SHARE = 0.8; // of the view, at most
const FROZEN_MS = 250; // a camera that gives no frame is asked again, so that it can be stopped
const RATE_MS = 1000; // what frames a second are counted over
const REFUSALS = {
  TypeError: ["browsers give a page over plain HTTP no live camera", "open it over HTTPS, or photograph something"],
  NotAllowedError: ["the camera was not allowed", "allow it beside the page's address, or choose a picture"],
  NotFoundError: ["this device has no camera", "choose a picture"],
  NotReadableError: ["another program uses the camera", "close that program, or choose a picture"],
};

/**
 * Show the camera in `video` and its aiming frame as `frame`, of the proportions of `size` (H, W);
 * `onFrame` gets an ImageBitmap of what is in it, and how many came in the last second, until
 * `signal` says stop; an error if the page is hidden or the camera ends. Asks for permission.
 */
export async function watch({ video, frame }, size, { signal, onFrame }) {
  const stream = await open();
  const [track] = stream.getTracks();
  const isOn = () => !signal.aborted && !document.hidden && track.readyState === "live";
  const times = [];
  try {
    video.srcObject = stream;
    if (isOn()) await video.play();
    while (isOn()) {
      const bitmap = await createImageBitmap(video, ...aim(video, frame, size));
      times.push(performance.now());
      while (times.at(-1) - times[0] > RATE_MS) times.shift();
      const elapsedMs = times.at(-1) - times[0];
      await onFrame(bitmap, elapsedMs ? 1000 * (times.length - 1) / elapsedMs : null);
      await nextFrame(video);
    }
    if (!signal.aborted) {
      throw new InputError(document.hidden ? "the camera was stopped when the page was hidden" : "the camera stopped",
        "the page in front", "press Live camera again");
    }
  } finally {
    track.stop();
    video.srcObject = null;
  }
}

async function open() {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: false, video: { facingMode: "environment" } });
  } catch (error) {
    const [found, nextStep] = REFUSALS[error.name] ?? [error.message, "choose a picture"];
    throw new InputError(found, "a camera that this page may use", nextStep);
  }
}

/** Lay the aiming frame over the video; return its [left, top, width, height] there. */
function aim({ videoWidth, videoHeight }, frame, [newHeight, newWidth]) {
  const scale = AIM_SHARE * Math.min(videoWidth / newWidth, videoHeight / newHeight);
  const [width, height] = [newWidth, newHeight].map((side) => Math.max(1, Math.round(side * scale)));
  const [left, top] = [(videoWidth - width) >> 1, (videoHeight - height) >> 1];
  const shares = { left: left / videoWidth, top: top / videoHeight, width: width / videoWidth, height: height / videoHeight };
  for (const [name, share] of Object.entries(shares)) frame.style[name] = `${100 * share}%`;
  return [left, top, width, height];
}

const nextFrame = (video) => new Promise((resume) => {
  if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resume);
  else requestAnimationFrame(resume);
  setTimeout(resume, FROZEN_MS);
});
