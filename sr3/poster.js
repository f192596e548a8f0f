// Sentences are as long as what they tell: smaller letters, until the sheet holds them.
const sheet = document.querySelector('main')
const overflows = () => sheet.scrollHeight > sheet.clientHeight
for (let size = 7; size > 4 && overflows(); size -= 0.1) sheet.style.setProperty('--letters', `${size}mm`)
