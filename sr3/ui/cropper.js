export default function ({ data, parentElement, setStateValue }) {
  let root = parentElement.querySelector('.root')
  if (!root || root.made !== data.name) {
    root?.remove()
    root = Object.assign(document.createElement('div'), { className: 'root', made: data.name })
    root.innerHTML = `<div class="photo"><img alt="The photograph" draggable="false">
      <div class="square" tabindex="0" role="group" aria-label="The square that is used. Arrow keys move it."></div></div>
      <label>Size <input type="range" min="5" max="100" step="1"></label>`
    parentElement.append(root)
    root.querySelector('img').src = data.image
    root.at = [...data.square]
  }
  const photo = root.querySelector('.photo'), square = root.querySelector('.square')
  const size = root.querySelector('input')
  const ratio = data.width / data.height
  const span = () => [root.at[2] * Math.min(1, 1 / ratio), root.at[2] * Math.min(1, ratio)]
  const place = () => {
    const [wide, high] = span()
    root.at[0] = Math.min(Math.max(root.at[0], 0), 1 - wide)
    root.at[1] = Math.min(Math.max(root.at[1], 0), 1 - high)
    Object.assign(square.style, { left: `${100 * root.at[0]}%`, top: `${100 * root.at[1]}%`,
      width: `${100 * wide}%`, height: `${100 * high}%` })
    size.value = Math.round(100 * root.at[2])
  }
  const tell = () => { clearTimeout(root.timer); root.timer = setTimeout(() => setStateValue('square', [...root.at]), 150) }
  square.onpointerdown = (event) => {
    square.setPointerCapture(event.pointerId)
    root.grip = [event.clientX, event.clientY, root.at[0], root.at[1]]
  }
  square.onpointermove = (event) => {
    if (!root.grip) return
    const box = photo.getBoundingClientRect()
    root.at[0] = root.grip[2] + (event.clientX - root.grip[0]) / box.width
    root.at[1] = root.grip[3] + (event.clientY - root.grip[1]) / box.height
    place()
  }
  square.onpointerup = square.onpointercancel = () => { if (root.grip) { root.grip = null; tell() } }
  square.onkeydown = (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key]
    if (!step) return
    event.preventDefault()
    root.at[0] += step[0] / 100
    root.at[1] += step[1] / 100
    place()
    tell()
  }
  size.oninput = () => {
    const [wide, high] = span(), middle = [root.at[0] + wide / 2, root.at[1] + high / 2]
    root.at[2] = size.value / 100
    const [w, h] = span()
    root.at[0] = middle[0] - w / 2
    root.at[1] = middle[1] - h / 2
    place()
    tell()
  }
  place()
}
