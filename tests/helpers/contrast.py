"""How well a page reads: JavaScript that returns the smallest contrast of its texts.

Formula: WCAG 2.2, "relative luminance" and "contrast ratio".
"""

CONTRAST = """
() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number)
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0)
  const over = ([r, g, b, a], back) => [r, g, b].map((c, i) => c * a + back[i] * (1 - a))
  const behind = node => {
    if (!node) return [255, 255, 255]
    const own = parse(getComputedStyle(node).backgroundColor)
    return (own[3] ?? 1) === 1 ? own : over(own, behind(node.parentElement))
  }
  const ratios = []
  const readable = 'h1, h2, p, li, th, td, caption, figcaption, summary, text'
  for (const node of document.querySelectorAll(readable)) {
    const style = getComputedStyle(node)
    const front = light(parse(node.tagName === 'text' ? style.fill : style.color))
    const back = light(behind(node))
    const [high, low] = front > back ? [front, back] : [back, front]
    ratios.push((high + 0.05) / (low + 0.05))
  }
  return Math.min(...ratios)
}
"""
