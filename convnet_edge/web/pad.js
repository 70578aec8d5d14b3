// A pad to draw on: dark ink on white paper, as a photograph of a drawing would be.

const INK = { lineWidth: 18, lineCap: "round", lineJoin: "round", strokeStyle: "black", fillStyle: "white" };

/** Let `canvas` be drawn on; `onDrawn` gets a PNG Blob after each stroke. Returns what clears it. */
export function makePad(canvas, onDrawn) {
  const context = Object.assign(canvas.getContext("2d"), INK);
  const clear = () => context.fillRect(0, 0, canvas.width, canvas.height);
  const draw = ({ offsetX, offsetY }) => {
    context.lineTo(offsetX * canvas.width / canvas.clientWidth, offsetY * canvas.height / canvas.clientHeight);
    context.stroke();
  };
  clear();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    context.beginPath();
    draw(event);
    draw(event); // a line to where it began: a tap leaves a dot
  });
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) draw(event);
  });
  canvas.addEventListener("pointerup", () => canvas.toBlob(onDrawn));
  return clear;
}
