// models/diffusion.c - the class-balancing training step.
#include "models/diffusion.h"

#include "kernels/pointwise/pointwise.h"

// x_t of images that lie on the device, or of x0; sets the inputs of either and eps.
static Tensor *record_noise(Graph *g, const Schedule *s, const DiffusionStepConfig *c, const int64_t image[4],
                            Tensor *state, DiffusionStep *d) {
    Tensor *sample = graph_view(g, d->sample, 0, 0, image[0]);
    if (c->images) {
        CHECK(!c->noise_input, "images on the device come with drawn noise");
        d->index = graph_input(g, "index", DT_I32, 1, image);
        NoisyImages noisy = op_q_sample(g, c->images, c->flip, d->index, d->t, sample, state, s->root);
        d->eps = noisy.eps;
        return noisy.xt;
    }
    d->x0 = graph_input(g, "x0", DT_F32, 4, image);
    d->eps = c->noise_input ? graph_input(g, "noise", DT_F32, 4, image)
                            : op_randn(g, image, PURPOSE_NOISE, sample, state);
    return op_add_noise(g, d->x0, d->eps, d->t, s->root);
}

DiffusionStep diffusion_record_step(Graph *g, UNet *m, const Schedule *s, const DiffusionStepConfig *c) {
    const UNetConfig *u = unet_config(m);
    ParamSet *ps = unet_params(m);
    int64_t n = c->batch, copies = c->labelled && c->balance ? 2 : 1;
    int64_t image[] = { n, u->image_size, u->image_size, u->in_channels };
    DiffusionStep d = { 0 };
    d.t = graph_input(g, "t", DT_I32, 1, (int64_t[]){ n });
    d.sample = graph_input(g, "sample", DT_I32, 1, (int64_t[]){ copies * n });
    if (c->labelled && u->classes) d.y = graph_input(g, "y", DT_I32, 1, (int64_t[]){ copies * n });
    if (c->weighted && copies == 2) d.weight = graph_input(g, "weight", DT_F32, 1, (int64_t[]){ n });
    if (u->augment) d.augment = graph_input(g, "augment", DT_F32, 2, (int64_t[]){ n, 9 });
    Tensor *xt = record_noise(g, s, c, image, param_state(ps), &d);                // (N,H,W,C)
    d.eps_hat = unet_forward(m, g, xt, d.t, d.y, d.augment, c->dropout ? d.sample : NULL);   // (kN,H,W,C)
    CbdmLoss loss = op_cbdm_loss(g, d.eps_hat, d.eps, d.t, d.weight,
                                 &(CbdmLossConfig){ .T = s->T, .tau = c->tau, .gamma = c->gamma, .share = c->share });
    d.loss = graph_output(g, loss.loss);
    d.per_image = graph_output(g, loss.per_image);
    if (c->noise_input) graph_output(g, d.eps_hat);
    graph_rewrite_forward(g);
    if (c->gradients) {
        graph_backward(g, d.loss);
        graph_rewrite_backward(g);
    }
    return d;
}
