"""Views: the same elements at other indices. `{all}` and `{to}` are the slots before and after."""

from faltung.graph.ops.table import row

ROWS = (
    # also reshapes, slices, flips, and the pieces of what is put together
    row("transpose", "X", "Y[{to}] = X[{all}]"),
    row("reshape", "X", "Y[{to}] = X[{all}]"),
    row("slice", "X", "Y[{to}] = X[{all}]"),
    row("flip", "X", "Y[{to}] = X[{all}]"),
    row("concatenate", "X", "Y[{to}] = X[{all}]"),
    row("pad", "X", "Y[{to}] = X[{all}]"),
    # outside, [{over}] is 0: there the value v stands
    row("pad_value", "X", "Y[{to}] = X[{all}] + v*[{over} = 0]"),
    # upscaling by whole factors; r upscaling factors of an image's axes
    row("upsample", "X A", "Y[{to}] = sum({over}: A[q,{over}]*X[{all}])"),
    row("nearest", "X", "Y[n,c,r*i+x...] = X[n,c,i...]"),
    row("pixel_shuffle", "X", "Y[n,c,r*i+x,r*j+y] = X[n,r*r*c+r*x+y,i,j]"),
    row("pixel_unshuffle", "X", "Y[n,r*r*c+r*x+y,i,j] = X[n,c,r*i+x,r*j+y]"),
    row("channel_shuffle", "X", "Y[n,s*c+g,i...] = X[n,e*g+c,i...]"),
    # windows as columns: kernel g×h, w windows in a row of the image
    row("unfold", "X", "Y[n,g*h*c+h*p+q,w*i+j] = X[n,c,s*i+d*p-P,t*j+e*q-Q]"),
    # resampling along one axis: output o takes element S[o], or the weights A[o]
    row("take", "X S", "Y[{to}] = sum({over}: [S[o] = {over}]*X[{all}])"),
    row("interpolate", "X A", "Y[{to}] = sum({over}: A[o,{over}]*X[{all}])"),
    # indices into tables, v rows or classes
    row("embedding", "T W", "Y[{to}] = sum(v: [T[{all}] = v]*W[v,{over}])"),
    row("embedding_padded", "T W", "Y[{to}] = sum(v: [T[{all}] = v]*([v ≠ P]*W[v,{over}] + [v = P]*stop(W[v,{over}])))"),
    row("one_hot", "T", "Y[{to}] = [T[{all}] = v]"),
)
