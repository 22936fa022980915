//! The picture in a window.

use std::sync::Arc;

use anyhow::{Context, Result};
use gemmaflow::runtime::{OwnDevice, wgpu};
use winit::{
    application::ApplicationHandler,
    dpi::PhysicalSize,
    event::WindowEvent,
    event_loop::{ActiveEventLoop, EventLoop},
    window::{Window, WindowId},
};

use crate::{App, Arguments, SIZE, picture, picture::Picture, writer::Writer};

/// Draws until the window is closed.
pub fn run(arguments: &Arguments) -> Result<()> {
    let events = EventLoop::new()?;
    let mut shown = Shown { arguments, open: None, outcome: Ok(()) };
    events.run_app(&mut shown)?;
    match shown.open {
        Some(open) => open.app.finish(shown.outcome, arguments),
        None => shown.outcome,
    }
}

struct Shown<'a> {
    arguments: &'a Arguments,
    open: Option<Open>,
    outcome: Result<()>,
}

struct Open {
    window: Arc<Window>,
    surface: wgpu::Surface<'static>,
    config: wgpu::SurfaceConfiguration,
    own: OwnDevice,
    app: App,
}

impl Open {
    fn new(events: &ActiveEventLoop, arguments: &Arguments) -> Result<Self> {
        let size = PhysicalSize::new(SIZE[0], SIZE[1]);
        let attributes = Window::default_attributes().with_title("gemmaflow").with_inner_size(size).with_resizable(false);
        let window = Arc::new(events.create_window(attributes)?);
        let descriptor = wgpu::InstanceDescriptor::new_with_display_handle(Box::new(events.owned_display_handle()));
        let instance = wgpu::Instance::new(descriptor);
        let surface = instance.create_surface(window.clone())?;
        let own = picture::open(&instance, Some(&surface))?;
        let config =
            surface.get_default_config(&own.adapter, SIZE[0], SIZE[1]).context("the adapter cannot draw to the window")?;
        surface.configure(&own.device, &config);
        let picture = Picture::new(&own, config.format, SIZE);
        let app = App::new(picture, Writer::start(own.clone(), arguments.job()?));
        Ok(Self { window, surface, config, own, app })
    }

    fn draw(&mut self, arguments: &Arguments) -> Result<()> {
        self.app.listen(arguments)?;
        match self.surface.get_current_texture() {
            wgpu::CurrentSurfaceTexture::Success(texture) | wgpu::CurrentSurfaceTexture::Suboptimal(texture) => {
                self.app.frame(&texture.texture.create_view(&wgpu::TextureViewDescriptor::default()))?;
                self.own.queue.present(texture);
            }
            wgpu::CurrentSurfaceTexture::Outdated | wgpu::CurrentSurfaceTexture::Lost => {
                self.surface.configure(&self.own.device, &self.config);
            }
            // The next frame may find one.
            _ => {}
        }
        self.window.request_redraw();
        Ok(())
    }
}

impl ApplicationHandler for Shown<'_> {
    fn resumed(&mut self, events: &ActiveEventLoop) {
        if self.open.is_none() {
            match Open::new(events, self.arguments) {
                Ok(open) => self.open = Some(open),
                Err(error) => {
                    self.outcome = Err(error);
                    events.exit();
                }
            }
        }
    }

    fn window_event(&mut self, events: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        let Some(open) = &mut self.open else { return };
        let outcome = match event {
            WindowEvent::CloseRequested => {
                events.exit();
                Ok(())
            }
            WindowEvent::RedrawRequested => open.draw(self.arguments),
            _ => Ok(()),
        };
        if outcome.is_err() {
            self.outcome = outcome;
            events.exit();
        }
    }
}
