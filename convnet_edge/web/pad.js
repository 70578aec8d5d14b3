// A pad to draw on: dark ink on white paper, as a photograph of a drawing would be.

const INK_WIDTH = 18;

/** Let `canvas` be drawn on; `onDrawn` gets a PNG Blob after each stroke. Returns what clears it. */
export function makePad(canvas, onDrawn) {
  const context = canvas.getContext("2d");
  const clear = () => {
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
  };
  const place = ({ offsetX, offsetY }) => [
    offsetX * canvas.width / canvas.clientWidth, offsetY * canvas.height / canvas.clientHeight];
  const stroke = (event) => {
    context.lineTo(...place(event));
    context.stroke();
  };
  clear();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    Object.assign(context, { lineWidth: INK_WIDTH, lineCap: "round", lineJoin: "round", strokeStyle: "black" });
    context.beginPath();
    context.moveTo(...place(event));
    stroke(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) stroke(event);
  });
  canvas.addEventListener("pointerup", () => canvas.toBlob(onDrawn));
  return clear;
}
