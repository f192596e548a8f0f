export default function ({ data, parentElement, setTriggerValue }) {
  let root = parentElement.querySelector('.root')
  if (!root) {
    root = Object.assign(document.createElement('div'), { className: 'root' })
    root.innerHTML = '<button type="button">Paste from the clipboard</button><p role="status"></p>'
    parentElement.append(root)
  }
  const say = (text) => { root.querySelector('p').textContent = text }
  const send = (blob) => {
    if (blob.size > data.most) return say('That picture is larger than 20 MB: make it smaller.')
    const reader = new FileReader()
    reader.onload = () => { say(''); setTriggerValue('picture', reader.result) }
    reader.readAsDataURL(blob)
  }
  const onPaste = (event) => {
    const item = [...(event.clipboardData?.items ?? [])].find((each) => each.type.startsWith('image/'))
    if (!item) return
    event.preventDefault()
    send(item.getAsFile())
  }
  root.querySelector('button').onclick = async () => {
    try {
      for (const item of await navigator.clipboard.read()) {
        const kind = item.types.find((each) => each.startsWith('image/'))
        if (kind) return send(await item.getType(kind))
      }
      say('There is no picture on the clipboard: copy one first.')
    } catch {
      say('The browser does not let pages read the clipboard: press Ctrl+V (or ⌘V) instead.')
    }
  }
  addEventListener('paste', onPaste)
  return () => removeEventListener('paste', onPaste)
}
