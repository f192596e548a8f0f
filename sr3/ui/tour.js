// The tour: four steps at the foot of the window, dismissed for good.

const NAME = 'sr3-tour'
let dismissed = false // where the browser keeps nothing, for as long as the page is open

const seen = () => {
  try { return dismissed || localStorage.getItem(NAME) === 'seen' } catch { return dismissed }
}
const forget = () => {
  dismissed = true
  try { localStorage.setItem(NAME, 'seen') } catch { /* then it is asked once a visit */ }
}

export default function ({ data, parentElement }) {
  if (seen()) return void parentElement.querySelector('.tour')?.remove()
  if (parentElement.querySelector('.tour')) return
  const tour = document.createElement('section')
  tour.className = 'tour'
  tour.setAttribute('aria-label', 'A short tour')
  tour.innerHTML = `<p class="where"></p><h2></h2><p class="text" role="status"></p>
    <div class="row"><button class="skip" type="button">Skip</button>
    <button class="next" type="button"></button></div>`
  parentElement.append(tour)
  const find = (selector) => tour.querySelector(selector)
  let at = 0
  const draw = () => {
    const [title, text] = data.steps[at]
    find('.where').textContent = `${at + 1} of ${data.steps.length}`
    find('h2').textContent = title
    find('.text').textContent = text
    find('.next').textContent = at + 1 < data.steps.length ? 'Next' : 'Done'
    find('.skip').hidden = at + 1 === data.steps.length
  }
  const end = () => { forget(); tour.remove() }
  find('.skip').onclick = end
  find('.next').onclick = () => { at += 1; if (at < data.steps.length) draw(); else end() }
  tour.onkeydown = (event) => { if (event.key === 'Escape') end() }
  draw()
}
